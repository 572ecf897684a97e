"""A trainer that was killed or stopped ends as one that never was, to the bit; the chaos tier tries more moments."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest

from feinschliff.artifacts.commit import read_manifest
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.report import ExitCode, Result
from tests.support.trainer import JOB, Workshop
from tests.support.waiting import eventually
from tests.unit.trainer.conftest import MakeWorkshop


@pytest.fixture(scope="module")
def calm_digests() -> dict[str, str]:
    return {}


@pytest.fixture
def calm(workshop: MakeWorkshop, calm_digests: dict[str, str]) -> str:
    """Digest of the result that an undisturbed run leaves."""
    if not calm_digests:
        calm_digests["result"] = digest(workshop().run())
    return calm_digests["result"]


def digest(manifest: Manifest | None) -> str:
    assert manifest is not None
    return manifest.digest


def check_reports(one: Workshop, steps: int = 15) -> None:
    """None lost; none doubled is what keys are for, and a step's key comes with equal numbers each time."""
    keys = one.reported_keys()
    assert [key for key in keys if key.startswith("metrics/")] == [f"metrics/step/{k}" for k in range(1, steps + 1)]
    assert [key for key in keys if key.startswith("evaluation/")] == [f"evaluation/step/{k}" for k in (5, 10, 15)]
    assert [key for key in keys if key.startswith("checkpoint/")][-1] == f"checkpoint/{steps}"
    losses: dict[str, set[float]] = {}
    for posted in one.reports():
        if posted.report.kind == "metrics":
            losses.setdefault(posted.report.key, set()).add(posted.report.values["loss"])
    assert all(len(values) == 1 for values in losses.values())


@pytest.mark.parametrize(
    "failpoint", ["checkpoint.before_commit=kill@2", "step.after=kill@7", "result.before_commit=kill"]
)
def test_a_killed_trainer_ends_as_an_undisturbed_one(workshop: MakeWorkshop, calm: str, failpoint: str) -> None:
    one = workshop()

    one.run(failpoints=failpoint, expect=-signal.SIGKILL)
    assert one.result is None

    assert digest(one.run(attempt=2)) == calm
    check_reports(one)


def test_a_trainer_killed_after_its_result_has_nothing_left_to_train(workshop: MakeWorkshop, calm: str) -> None:
    one = workshop()

    one.run(failpoints="result.after_commit=kill", expect=-signal.SIGKILL)
    before = one.result

    assert one.run(attempt=2) == before
    assert digest(before) == calm
    check_reports(one)


def test_sigterm_saves_and_the_next_attempt_ends_as_an_undisturbed_one(workshop: MakeWorkshop, calm: str) -> None:
    one = workshop(checkpointing={"every_steps": 1000, "keep_best": False})
    process = one.start(failpoints="step.after=delay:0.1")
    eventually(lambda: "metrics/step/3" in one.reported_keys(), timeout_seconds=60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=60)

    assert process.exitcode == ExitCode.RESUME_ME
    assert one.result is None
    saved = sorted(int(path.name) for path in (one.store_folder / JOB / "checkpoints").iterdir())
    assert len(saved) == 1
    assert saved[0] >= 3

    one.recipe = workshop().recipe
    assert digest(one.run(attempt=2)) == calm
    check_reports(one)


def test_reports_that_were_not_taken_before_a_kill_are_sent_by_the_next_attempt(
    workshop: MakeWorkshop, calm: str
) -> None:
    one = workshop()

    one.run(failpoints="report.before_send=delay:60;step.after=kill@9", expect=-signal.SIGKILL)
    assert not one.reports_path.exists(), "the service heard of nothing"

    assert digest(one.run(attempt=2)) == calm
    check_reports(one)


def test_other_orders_schedules_and_intervals_resume_as_well(workshop: MakeWorkshop) -> None:
    optimisation = {"epochs": 3, "batch_size": 4, "learning_rate": 5e-3, "order": "by_length", "schedule": "cosine"}
    recipe = {
        "optimisation": optimisation,
        "validation": {"every_epochs": 0.8, "rows_max": 3},
        "checkpointing": {"every_epochs": 0.4, "keep_best": False},
    }
    calm, one = workshop(**recipe), workshop(**recipe)
    calm.run()

    one.run(failpoints="step.after=kill@7", expect=-signal.SIGKILL)
    assert kept_checkpoints(one) == [2, 4, 6]

    assert digest(one.run(attempt=2)) == digest(calm.result)
    validations = [key for key in calm.reported_keys() if key.startswith("evaluation/")]
    assert validations == [f"evaluation/step/{step}" for step in (4, 8, 12, 15)]


def test_result_names_its_making(workshop: MakeWorkshop) -> None:
    one = workshop(checkpointing={"every_steps": 2, "keep_last": 1})
    manifest = one.run()
    assert manifest is not None
    result = Result.model_validate(manifest.meta)

    assert set(manifest.files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat.json",
        "chat_template.jinja",
        "metrics.csv",
    }
    assert result.base_digest.startswith("sha256:")
    assert (result.steps, result.epochs) == (15, 3)
    assert result.metrics["validation_loss"] < 6
    assert [len(probe.token_ids) == len(probe.logprobs) > 0 for probe in result.golden_probes] == [True] * 5
    assert kept_checkpoints(one) == sorted({15, result.best_step})


def kept_checkpoints(one: Workshop) -> Sequence[int]:
    folders = (one.store_folder / JOB / "checkpoints").iterdir()
    return sorted(int(path.name) for path in folders if read_manifest(one.store, f"{JOB}/checkpoints/{path.name}"))
