"""The reconciler with real processes: jobs end as their attempts deserve, whoever dies in between."""

from __future__ import annotations

import pytest

from feinschliff.training.life import State
from feinschliff.training.lists import Lists
from tests.contract.training.conftest import Training
from tests.support.waiting import eventually


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: the store's promises are tested on both, the processes need one."""
    return sqlite_url


def states(training: Training, name: str) -> list[str]:
    events = Lists(training.database).events(name, "", 500, "", "").items
    return [event.detail["current"] for event in events if event.detail["kind"] == "state"]


def test_a_job_that_commits_its_result_succeeds_and_is_registered_once(training: Training) -> None:
    job = training.jobs.create(training.order("succeed"))
    over = training.turn_until_over(job.name)
    assert over.state is State.SUCCEEDED
    assert over.model_version == f"projects/default/models/{job.uid}/versions/1"
    assert training.registrar.calls == [job.name]
    assert states(training, job.name) == ["queued", "running", "succeeded"]


@pytest.mark.parametrize(
    ("deeds", "state", "attempts", "reason"),
    [
        ("die,succeed", State.SUCCEEDED, 2, None),
        ("75,succeed", State.SUCCEEDED, 2, None),
        ("advance,advance,advance,advance,succeed", State.SUCCEEDED, 5, None),  # only barren attempts count
        ("65", State.FAILED, 1, "ATTEMPT_CRASHED"),
        ("memory,succeed", State.FAILED, 1, "OUT_OF_MEMORY"),  # it would be met again
        ("disk,succeed", State.SUCCEEDED, 2, None),
        ("die", State.FAILED, 3, "ATTEMPTS_EXHAUSTED"),
        ("0", State.FAILED, 3, "ATTEMPTS_EXHAUSTED"),  # an exit code without a manifest is no success
    ],
)
def test_how_jobs_end(training: Training, deeds: str, state: State, attempts: int, reason: str | None) -> None:
    job = training.jobs.create(training.order(deeds))
    over = training.turn_until_over(job.name)
    assert (over.state, over.attempt) == (state, attempts)
    assert (over.failure.reason if over.failure else None) == reason


def test_a_cancelled_attempt_is_stopped(training: Training) -> None:
    job = training.jobs.create(training.order("wait"))
    reconciler = training.reconciler()
    training.turn_until(job.name, State.RUNNING, reconciler)
    training.jobs.cancel(job.name, "changed my mind")
    assert training.turn_until_over(job.name, reconciler).state is State.CANCELLED


@pytest.mark.parametrize(("deeds", "step"), [("heed,succeed", 1), ("wait,succeed", 0)])
def test_a_paused_attempt_saves_and_ends_and_the_next_goes_on(training: Training, deeds: str, step: int) -> None:
    """The first hears it from the service, though no signal reaches it; the second hears nothing but the signal."""
    job = training.jobs.create(training.order(deeds))
    reconciler = training.reconciler()
    training.turn_until(job.name, State.RUNNING, reconciler)
    training.jobs.pause(job.name)

    def is_paused() -> bool:
        reconciler.turn()
        if deeds.startswith("wait"):
            training.clock.advance(1)
        return training.jobs.get(job.name).state is State.PAUSED

    eventually(is_paused, 30, "it is paused")
    training.jobs.resume(job.name)
    over = training.turn_until_over(job.name, training.reconciler("another"))
    assert (over.state, over.attempt, over.safe_step) == (State.SUCCEEDED, 2, step)
    assert states(training, job.name) == ["queued", "running", "pausing", "paused", "queued", "running", "succeeded"]


def test_a_failed_job_that_is_retried_may_succeed(training: Training) -> None:
    job = training.jobs.create(training.order("65,succeed"))
    assert training.turn_until_over(job.name).state is State.FAILED
    training.jobs.retry(job.name)
    over = training.turn_until_over(job.name)
    assert (over.state, over.attempt, over.failure) == (State.SUCCEEDED, 2, None)


def test_a_silent_attempt_is_begun_again(training: Training) -> None:
    job = training.jobs.create(training.order("wait,succeed"))
    reconciler = training.reconciler()
    training.turn_until(job.name, State.RUNNING, reconciler)
    training.clock.advance(1000)
    over = training.turn_until_over(job.name, reconciler)
    assert (over.state, over.attempt) == (State.SUCCEEDED, 2)


def test_slots_bound_what_runs_and_the_oldest_goes_first(training: Training) -> None:
    made = []
    for _ in range(3):
        training.clock.advance(1)
        made.append(training.jobs.create(training.order("wait")).name)
    reconciler = training.reconciler(slots=2)
    reconciler.turn()
    reconciler.turn()
    assert [training.jobs.get(name).state for name in made] == [State.RUNNING, State.RUNNING, State.QUEUED]
    for name in made:
        training.jobs.cancel(name)
        training.turn_until_over(name, reconciler)


def test_another_reconciler_takes_over_when_the_first_is_gone(training: Training) -> None:
    job = training.jobs.create(training.order("wait,succeed"))
    first, second = training.reconciler("one"), training.reconciler("two")
    training.turn_until(job.name, State.RUNNING, first)
    training.jobs.cancel(job.name)
    second.turn()
    assert training.jobs.get(job.name).state is State.CANCELLING  # still leased to the first
    training.clock.advance(60)
    assert training.turn_until_over(job.name, second).state is State.CANCELLED
    assert training.jobs.get(job.name).attempt == 1


def test_one_bad_job_does_not_stop_the_others(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = training.jobs.create(training.order("succeed")), training.jobs.create(training.order("succeed"))
    register = training.registrar.register

    def picky(job, manifest, adapter, task):  # type: ignore[no-untyped-def]
        if job.name == bad.name:
            raise RuntimeError("no")
        return register(job, manifest, adapter, task)

    monkeypatch.setattr(training.registrar, "register", picky)
    reconciler = training.reconciler()
    assert training.turn_until_over(good.name, reconciler).state is State.SUCCEEDED
    assert training.jobs.get(bad.name).state is State.RUNNING
    monkeypatch.setattr(training.registrar, "register", register)
    assert training.turn_until_over(bad.name, reconciler).state is State.SUCCEEDED
