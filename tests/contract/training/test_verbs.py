"""What may be asked of a job while it lives, and after: pause, resume, cancel, retry. On SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

from feinschliff.artifacts.commit import commit
from feinschliff.formats.report import ExitCode
from feinschliff.kit.errors import Conflict, WrongState
from feinschliff.training import store
from feinschliff.training.acts import workload_of
from feinschliff.training.life import State
from feinschliff.training.lists import Lists
from feinschliff.training.reconciler import Reconciler
from feinschliff.training.store import Job
from feinschliff.workloads import status
from tests.contract.training.conftest import Training
from tests.support.scripted_runner import ScriptedRunner


@pytest.fixture
def runner() -> ScriptedRunner:
    return ScriptedRunner()


@pytest.fixture
def reconciler(training: Training, runner: ScriptedRunner) -> Reconciler:
    return training.reconciler(runner=runner)


def running(training: Training, runner: ScriptedRunner, reconciler: Reconciler, **recipe: object) -> Job:
    order = training.order()
    order = training.order(recipe=order.recipe.model_copy(update=recipe))
    name = training.jobs.create(order).name
    reconciler.turn()
    return shown(training, runner, name, status.State.RUNNING)


def shown(training: Training, runner: ScriptedRunner, name: str, state: status.State, **changes: object) -> Job:
    """The job, whose attempt is seen like this from now on."""
    job = training.jobs.get(name)
    runner.show(workload_of(job), state=state, **changes)
    return job


def paused(training: Training, runner: ScriptedRunner, reconciler: Reconciler, **recipe: object) -> Job:
    job = running(training, runner, reconciler, **recipe)
    training.jobs.pause(job.name)
    shown(training, runner, job.name, status.State.EXITED, exit_code=int(ExitCode.RESUME_ME))
    reconciler.turn()
    job = training.jobs.get(job.name)
    assert job.state is State.PAUSED
    return job


def states(training: Training, name: str) -> list[str]:
    events = Lists(training.database).events(name, "", 500, "", "").items
    return [event.detail["current"] for event in events if event.detail["kind"] == "state"]


def test_a_running_job_is_told_to_pause_and_its_slot_is_free_again(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler
) -> None:
    job = paused(training, runner, reconciler)
    assert runner.stopped == []  # it saved and left by itself
    assert job.finished is None
    with training.database.reading() as session:
        assert store.jobs_under_way(session) == []
    other = training.jobs.create(training.order())
    reconciler.turn()
    assert training.jobs.get(other.name).state is State.RUNNING


def test_a_paused_job_stays_so_whoever_looks_until_it_is_resumed(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler
) -> None:
    job = paused(training, runner, reconciler)
    for owner in ("two", "three"):
        training.clock.advance(3600)
        training.reconciler(owner, runner=runner).turn()
    assert training.jobs.get(job.name) == job
    commit(training.store, f"{job.name}/checkpoints/7", {"adapter": b"x"}, {}, kind="checkpoint")
    assert training.jobs.resume(job.name).state is State.QUEUED
    training.reconciler("two", runner=runner).turn()
    resumed = training.jobs.get(job.name)
    assert (resumed.state, resumed.attempt, resumed.safe_step) == (State.RUNNING, 2, 7)
    assert states(training, job.name) == ["queued", "running", "pausing", "paused", "queued", "running"]


def test_a_job_that_does_not_hear_is_stopped_after_a_while(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler
) -> None:
    job = running(training, runner, reconciler)
    training.jobs.pause(job.name)
    reconciler.turn()
    assert runner.stopped == []
    training.clock.advance(5)
    reconciler.turn()
    assert runner.stopped == [workload_of(job)]
    reconciler.turn()
    assert training.jobs.get(job.name).state is State.PAUSED


def test_whoever_takes_over_a_job_that_is_to_pause_pauses_it(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler
) -> None:
    job = running(training, runner, reconciler)
    training.jobs.pause(job.name)
    reconciler.turn()  # and then it is gone
    training.clock.advance(60)
    second = training.reconciler("two", runner=runner)
    second.turn()
    assert runner.stopped == []  # it has the whole time again
    shown(training, runner, job.name, status.State.EXITED, exit_code=int(ExitCode.RESUME_ME))
    second.turn()
    assert training.jobs.get(job.name).state is State.PAUSED


def test_one_that_still_waits_for_its_machine_is_stopped_at_once(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler
) -> None:
    job = running(training, runner, reconciler)
    shown(training, runner, job.name, status.State.PENDING)
    training.jobs.pause(job.name)
    reconciler.turn()
    assert runner.stopped == [workload_of(job)]


def test_a_job_that_finishes_before_it_could_pause_has_succeeded(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler
) -> None:
    job = running(training, runner, reconciler)
    training.jobs.pause(job.name)
    commit(training.store, f"{job.name}/result", {"adapter": b"weights"}, {}, kind="result")
    shown(training, runner, job.name, status.State.EXITED, exit_code=0)
    reconciler.turn()
    assert training.jobs.get(job.name).state is State.SUCCEEDED


def test_only_a_job_that_had_an_attempt_is_paused_while_it_waits(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler
) -> None:
    fresh = training.jobs.create(training.order())
    with pytest.raises(WrongState) as refused:
        training.jobs.pause(fresh.name)
    assert refused.value.reason == "JOB_STATE_FORBIDS"
    job = running(training, runner, reconciler)
    shown(training, runner, job.name, status.State.EXITED, exit_code=1)
    reconciler.turn()
    for _ in range(2):  # the same moves of the same attempt: each is an event of its own
        assert training.jobs.pause(job.name).state is State.PAUSED
        assert training.jobs.resume(job.name).state is State.QUEUED
    assert states(training, job.name)[2:] == ["queued", "paused", "queued", "paused", "queued"]


@pytest.mark.parametrize("state", ["pausing", "paused"])
def test_a_job_can_be_cancelled_while_it_pauses_and_after(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler, state: str
) -> None:
    if state == "paused":
        job = paused(training, runner, reconciler)
        assert training.jobs.cancel(job.name).state is State.CANCELLED
        return
    job = running(training, runner, reconciler)
    training.jobs.pause(job.name)
    assert training.jobs.cancel(job.name).state is State.CANCELLING
    assert training.turn_until_over(job.name, reconciler).state is State.CANCELLED


@pytest.mark.parametrize("verb", ["pause", "resume", "retry"])
@pytest.mark.parametrize("state", list(State))
def test_what_a_state_forbids_is_refused_with_both_names(training: Training, verb: str, state: State) -> None:
    allowed = {
        "pause": {State.RUNNING},
        "resume": {State.PAUSED},
        "retry": {State.FAILED, State.CANCELLED},
    }
    job = training.jobs.create(training.order())
    with training.database.transaction() as session:
        store.save_job(session, job, state=state)
    ask = getattr(training.jobs, verb)
    if state in allowed[verb]:
        ask(job.name)
        return
    with pytest.raises(WrongState) as refused:
        ask(job.name)
    assert refused.value.reason == "JOB_STATE_FORBIDS"
    assert refused.value.metadata["state"] == state.value
    assert training.jobs.get(job.name).state is state


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_retry_goes_on_from_the_last_checkpoint_with_all_attempts_before_it(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler, end: str
) -> None:
    job = running(training, runner, reconciler)
    commit(training.store, f"{job.name}/checkpoints/4", {"adapter": b"x"}, {}, kind="checkpoint")
    if end == "cancelled":
        training.jobs.cancel(job.name)
        training.turn_until_over(job.name, reconciler)
    else:
        shown(training, runner, job.name, status.State.EXITED, exit_code=int(ExitCode.DATA_BAD))
        reconciler.turn()
    over = training.jobs.get(job.name)
    assert over.state.value == end
    retried = training.jobs.retry(job.name)
    assert (retried.state, retried.failure, retried.finished) == (State.QUEUED, None, None)
    assert retried.barren_attempts == 0
    reconciler.turn()
    again = shown(training, runner, job.name, status.State.RUNNING)
    assert (again.state, again.attempt, again.safe_step) == (State.RUNNING, 2, 4)


def test_a_job_that_is_retried_meanwhile_is_not_deleted(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler
) -> None:
    job = running(training, runner, reconciler)
    training.jobs.cancel(job.name)
    over = training.turn_until_over(job.name, reconciler)
    training.jobs.retry(job.name)
    with pytest.raises(WrongState):
        training.jobs.delete(job.name)
    with training.database.transaction() as session, pytest.raises(Conflict):
        store.save_job(session, over, updated=training.clock.now())
    assert training.jobs.get(job.name).state is State.QUEUED


def test_time_in_a_pause_is_not_time_at_work(
    training: Training, runner: ScriptedRunner, reconciler: Reconciler
) -> None:
    limits = training.order().recipe.limits.model_copy(update={"wall_seconds": 100.0})
    job = running(training, runner, reconciler, limits=limits)
    training.clock.advance(40)
    training.jobs.pause(job.name)
    shown(training, runner, job.name, status.State.EXITED, exit_code=int(ExitCode.RESUME_ME))
    reconciler.turn()
    training.clock.advance(10_000)
    training.jobs.resume(job.name)
    reconciler.turn()
    shown(training, runner, job.name, status.State.RUNNING)
    training.clock.advance(30)
    reconciler.turn()
    assert runner.stopped == []
    training.clock.advance(40)
    reconciler.turn()
    training.turn_until_over(job.name, reconciler)
    failure = training.jobs.get(job.name).failure
    assert failure is not None
    assert failure.reason == "WALL_TIME_EXCEEDED"
