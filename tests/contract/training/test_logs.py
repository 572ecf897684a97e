"""What an attempt printed can be read while it runs and afterwards. On SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

from feinschliff.formats.report import ExitCode
from feinschliff.kit.errors import NotFound
from feinschliff.training.acts import workload_of
from feinschliff.training.logs import PIECE_BYTES, Logs
from feinschliff.training.store import Job
from feinschliff.workloads import status
from tests.contract.training.conftest import Training
from tests.support.scripted_runner import ScriptedRunner


@pytest.fixture
def runner() -> ScriptedRunner:
    return ScriptedRunner()


@pytest.fixture
def logs(training: Training, runner: ScriptedRunner) -> Logs:
    return Logs(training.database, training.store, runner)


def running(training: Training, runner: ScriptedRunner) -> Job:
    name = training.jobs.create(training.order()).name
    training.reconciler(runner=runner).turn()
    job = training.jobs.get(name)
    runner.show(workload_of(job), state=status.State.RUNNING)
    return job


def end(training: Training, runner: ScriptedRunner, job: Job, code: int) -> None:
    runner.show(workload_of(job), state=status.State.EXITED, exit_code=code)
    training.reconciler(runner=runner).turn()


def test_a_log_is_read_on_from_any_byte_across_the_end_of_its_attempt(
    training: Training, runner: ScriptedRunner, logs: Logs
) -> None:
    job = running(training, runner)
    runner.said[workload_of(job)] = b"loading\n"
    tail = logs.tail(job.name, 0)
    assert [piece.text for piece in tail.read(0)] == [b"loading\n"]
    assert [(piece.start, piece.text) for piece in tail.read(4)] == [(4, b"ing\n")]
    assert tail.read(8) == []
    assert not tail.is_final()

    runner.said[workload_of(job)] += b"step 1\n"
    end(training, runner, job, int(ExitCode.DATA_BAD))
    runner.said.clear()
    assert tail.is_final()
    assert [(piece.attempt, piece.text) for piece in tail.read(8)] == [(1, b"step 1\n")]
    assert tail.read(15) == tail.read(1000) == []


def test_a_long_log_comes_in_pieces_without_a_gap(training: Training, runner: ScriptedRunner, logs: Logs) -> None:
    job = running(training, runner)
    said = bytes(range(256)) * 1024
    runner.said[workload_of(job)] = said
    pieces = logs.tail(job.name, 1).read(0)
    assert max(len(piece.text) for piece in pieces) == PIECE_BYTES
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert b"".join(piece.text for piece in pieces) == said


def test_the_newest_attempt_is_read_and_stays_the_one(training: Training, runner: ScriptedRunner, logs: Logs) -> None:
    job = running(training, runner)
    runner.said[workload_of(job)] = b"first"
    end(training, runner, job, 1)
    tail = logs.tail(job.name, 0)
    training.clock.advance(10)
    training.reconciler(runner=runner).turn()
    second = training.jobs.get(job.name)
    assert second.attempt == 2
    runner.said[workload_of(second)] = b"second"
    assert [piece.text for piece in tail.read(0)] == [b"first"]
    assert [piece.text for piece in logs.tail(job.name, 0).read(0)] == [b"second"]


def test_before_the_first_attempt_a_reader_waits_unless_there_will_be_none(training: Training, logs: Logs) -> None:
    job = training.jobs.create(training.order())
    tail = logs.tail(job.name, 0)
    assert tail.read(0) == []
    assert not tail.is_final()
    training.jobs.cancel(job.name)
    assert tail.is_final()


def test_what_is_not_there_is_named(training: Training, logs: Logs) -> None:
    job = training.jobs.create(training.order())
    for name, attempt, reason in [
        (job.name, 1, "ATTEMPT_NOT_FOUND"),
        (job.name, -1, "ATTEMPT_NOT_FOUND"),
        (f"{job.name}-x", 0, "JOB_NOT_FOUND"),
    ]:
        with pytest.raises(NotFound) as refused:
            logs.tail(name, attempt)
        assert refused.value.reason == reason
