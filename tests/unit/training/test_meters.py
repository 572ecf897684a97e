"""The series of running jobs."""

from __future__ import annotations

import pytest

from feinschliff.formats.report import Metrics as StepMetrics
from feinschliff.kit.metrics import Metrics
from feinschliff.training.meters import Live

ONE, OTHER = "projects/p/trainingJobs/one", "projects/p/trainingJobs/other"


def step(speed: float) -> StepMetrics:
    values = {"tokens_per_second": speed}
    return StepMetrics(key="s", phase="train", step=1, steps_total=2, epoch=0, trained_tokens=1, values=values)


def test_the_speed_of_all_is_the_newest_of_each_that_still_runs() -> None:
    metrics = Metrics("training")
    live = Live(metrics)
    live.report(ONE, [step(1), step(3)])
    live.report(OTHER, [step(5)])

    live.keep([ONE, OTHER])
    assert metrics.value("feinschliff_training_tokens_per_second") == 8

    live.keep([OTHER])
    assert metrics.value("feinschliff_training_tokens_per_second") == 5
    labels = {"project": "p", "training_job": "one"}
    assert metrics.registry.get_sample_value("feinschliff_training_job_tokens_per_second", labels) is None


def test_a_look_at_many_jobs_does_not_collect_every_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics("training")
    live = Live(metrics)
    live.report(ONE, [step(1)])
    monkeypatch.delattr(type(metrics.registry), "collect")

    live.keep([ONE])
