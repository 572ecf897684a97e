"""What a killed process left on the machine: cleared away, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feinschliff.kit.errors import Unavailable
from feinschliff.training import leftovers
from feinschliff.training.acts import workload_of
from feinschliff.training.life import State
from feinschliff.training.store import Job
from feinschliff.workloads import status
from feinschliff.workloads.status import Observation
from tests.contract.training.conftest import Training
from tests.support.scripted_runner import ScriptedRunner


@pytest.fixture
def runner() -> ScriptedRunner:
    return ScriptedRunner()


def running(training: Training, runner: ScriptedRunner) -> Job:
    job = training.jobs.create(training.order())
    training.reconciler(runner=runner).turn()
    return training.jobs.get(job.name)


def leave(runner: ScriptedRunner, job: Job, state: status.State) -> str:
    """Puts the job's workload back, as whoever dies before clearing it away leaves it."""
    name = workload_of(job)
    runner.seen[name] = Observation(name, state, labels={"room": "training", "job": job.name})
    return name


def test_a_workload_that_outlived_its_attempt_is_stopped_and_forgotten(
    training: Training, runner: ScriptedRunner
) -> None:
    job = running(training, runner)
    training.jobs.cancel(job.name)
    assert training.turn_until_over(job.name, training.reconciler(runner=runner)).state is State.CANCELLED
    name = leave(runner, job, status.State.RUNNING)

    training.reconciler("next", runner=runner).turn()
    assert runner.observe(name).state is status.State.EXITED

    training.reconciler("after", runner=runner).turn()
    assert runner.observe(name).state is status.State.NOTHING


def test_an_attempt_under_way_and_workloads_of_others_stay(training: Training, runner: ScriptedRunner) -> None:
    job = running(training, runner)
    theirs = leave(runner, replace(job, uid="ftjob-theirs"), status.State.RUNNING)  # the same name, elsewhere
    unknown = leave(runner, replace(job, name=f"{job.name}-x", uid="ftjob-unknown"), status.State.EXITED)

    leftovers.clear(training.database, runner)

    assert set(runner.seen) == {workload_of(job), theirs, unknown}
    assert runner.stopped == []


def test_a_cluster_that_does_not_answer_leaves_them_for_later(
    training: Training, runner: ScriptedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*given: object) -> None:
        raise Unavailable("WORKLOAD_CLUSTER_UNAVAILABLE", "no")

    monkeypatch.setattr(runner, "list", away)
    leftovers.clear(training.database, runner)
