"""Which files take longest, so that they begin first: one that begins last leaves all other workers idle."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = (
    "tests/contract/test_cli_platform.py",
    "tests/contract/trainer/test_trainer_warm.py",
    "tests/contract/test_cli_flow.py",
    "tests/contract/trainer/test_task_adapters.py",
    "tests/contract/images/test_control.py",
    "tests/contract/trainer/test_crew.py",
    "tests/contract/trainer/test_adaptations.py",
    "tests/contract/test_store_s3.py",
    "tests/contract/inference/test_inference_conformance.py",
    "tests/contract/inference/test_inference_process.py",
    "tests/contract/test_cli_demo.py",
    "tests/contract/trainer/test_moving.py",
    "tests/contract/ingestion/test_ingestion_faults.py",
    "tests/contract/inference/test_inference_deployments.py",
    "tests/contract/inference/test_inference_log.py",
    "tests/contract/trainer/test_trackers.py",
    "tests/contract/trainer/test_heads.py",
    "tests/contract/evaluation/test_evaluation_lives.py",
    "tests/contract/workloads/test_warm.py",
    "tests/contract/images/test_needs.py",
    "tests/contract/inference/test_inference_smollm2.py",
    "tests/contract/workloads/test_runners.py",
    "tests/contract/monitoring/test_alerts.py",
    "tests/e2e/test_kills.py",
    "tests/e2e/test_monitoring.py",
    "tests/e2e/test_cluster.py",
    "tests/e2e/test_crew.py",
    "tests/e2e/test_kinds.py",
    "tests/e2e/test_flywheel.py",
    "tests/e2e/test_chart_program.py",
)
"""By the time that they were seen to take on two cores; all others follow, in their own order."""


def place_of(file: str, longest: Iterable[str] = LONGEST) -> int:
    """Where a file stands among those that begin first; the others all stand behind them."""
    places = {name: place for place, name in enumerate(longest)}
    return places.get(file, len(places))
