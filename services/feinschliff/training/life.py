"""The life of a job as data: where it may go, and what to do about what is seen."""

from __future__ import annotations

from enum import StrEnum, auto

from feinschliff.formats.report import ExitCode


class State(StrEnum):
    QUEUED = auto()
    RUNNING = auto()
    PAUSING = auto()
    PAUSED = auto()
    CANCELLING = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    CANCELLED = auto()


class Seen(StrEnum):
    """What the attempt's workload shows; `FINISHED` outranks any exit code, for only the manifest is success."""

    NOTHING = auto()
    PENDING = auto()
    RUNNING = auto()
    FINISHED = auto()
    RESUMABLE = auto()
    DATA_BAD = auto()
    CRASHED = auto()


class Verb(StrEnum):
    """What may be asked of a job."""

    CANCEL = auto()
    PAUSE = auto()
    RESUME = auto()
    RETRY = auto()


class Act(StrEnum):
    START = auto()
    STOP = auto()
    STOP_LATER = auto()
    REQUEUE = auto()
    RETRY_OR_FAIL = auto()
    FAIL = auto()
    MARK_SUCCEEDED = auto()
    MARK_CANCELLED = auto()
    MARK_PAUSED = auto()


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
UNDER_WAY = frozenset({State.RUNNING, State.PAUSING, State.CANCELLING})  # an attempt holds a slot

MOVES: dict[State, frozenset[State]] = {  # out of a final state only by a retry
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.QUEUED, State.PAUSING, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.PAUSING: frozenset({State.PAUSED, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}

ASKED: dict[tuple[Verb, State], State] = {  # what a verb makes of a job; anything else is refused
    (Verb.CANCEL, State.QUEUED): State.CANCELLED,
    (Verb.CANCEL, State.RUNNING): State.CANCELLING,
    (Verb.CANCEL, State.PAUSING): State.CANCELLING,
    (Verb.CANCEL, State.PAUSED): State.CANCELLED,
    (Verb.CANCEL, State.CANCELLING): State.CANCELLING,
    (Verb.CANCEL, State.CANCELLED): State.CANCELLED,
    (Verb.PAUSE, State.QUEUED): State.PAUSED,  # between two attempts, see `asked`
    (Verb.PAUSE, State.RUNNING): State.PAUSING,
    (Verb.RESUME, State.PAUSED): State.QUEUED,
    (Verb.RETRY, State.FAILED): State.QUEUED,
    (Verb.RETRY, State.CANCELLED): State.QUEUED,
}

DECIDE: dict[tuple[State, Seen], Act] = {  # anything else: nothing to do
    (State.QUEUED, Seen.NOTHING): Act.START,
    (State.RUNNING, Seen.FINISHED): Act.MARK_SUCCEEDED,
    (State.RUNNING, Seen.RESUMABLE): Act.REQUEUE,  # it was asked to stop, not by us: its machine is going away
    (State.RUNNING, Seen.DATA_BAD): Act.FAIL,
    (State.RUNNING, Seen.CRASHED): Act.RETRY_OR_FAIL,
    (State.RUNNING, Seen.NOTHING): Act.RETRY_OR_FAIL,  # its machine vanished, or we died before it started
    (State.PAUSING, Seen.PENDING): Act.STOP,  # it has nothing to save
    (State.PAUSING, Seen.RUNNING): Act.STOP_LATER,  # it is told in the answer to its next report
    (State.PAUSING, Seen.FINISHED): Act.MARK_SUCCEEDED,  # it finished before it could save
    (State.PAUSING, Seen.RESUMABLE): Act.MARK_PAUSED,
    (State.PAUSING, Seen.DATA_BAD): Act.FAIL,
    (State.PAUSING, Seen.CRASHED): Act.MARK_PAUSED,
    (State.PAUSING, Seen.NOTHING): Act.MARK_PAUSED,
    (State.CANCELLING, Seen.PENDING): Act.STOP,
    (State.CANCELLING, Seen.RUNNING): Act.STOP,
    (State.CANCELLING, Seen.FINISHED): Act.MARK_SUCCEEDED,  # it finished before we stopped it
    (State.CANCELLING, Seen.RESUMABLE): Act.MARK_CANCELLED,
    (State.CANCELLING, Seen.DATA_BAD): Act.MARK_CANCELLED,
    (State.CANCELLING, Seen.CRASHED): Act.MARK_CANCELLED,
    (State.CANCELLING, Seen.NOTHING): Act.MARK_CANCELLED,
}


def asked(verb: Verb, state: State, *, attempts: int) -> State | None:
    """Where a verb takes a job; None where it is refused.

    A job that waits for its next attempt after a crash counts as running, and is paused at once; one that waits for its
    first has nothing to pause.
    """
    if verb is Verb.PAUSE and state is State.QUEUED and not attempts:
        return None
    return ASKED.get((verb, state))


def seen_after_exit(exit_code: int | None, *, result_committed: bool) -> Seen:
    """What an ended workload means; an unknown exit code (its wrapper died too) is a crash."""
    if result_committed:
        return Seen.FINISHED
    if exit_code == ExitCode.RESUME_ME:
        return Seen.RESUMABLE
    return Seen.DATA_BAD if exit_code == ExitCode.DATA_BAD else Seen.CRASHED


def backoff_seconds(barren_attempts: int) -> float:
    """Pause before the next attempt: 1, 2, 4 ... at most 60 s, by attempts in a row that made no step of progress."""
    return float(min(60, 2 ** max(0, barren_attempts - 1)))
