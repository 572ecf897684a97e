"""The life of a job as data: where it may go, and what to do about what is seen."""

from __future__ import annotations

from enum import StrEnum, auto

from feinschliff.formats.report import ExitCode


class State(StrEnum):
    QUEUED = auto()
    RUNNING = auto()
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


class Act(StrEnum):
    START = auto()
    STOP = auto()
    REQUEUE = auto()
    RETRY_OR_FAIL = auto()
    FAIL = auto()
    MARK_SUCCEEDED = auto()
    MARK_CANCELLED = auto()


MOVES: dict[State, frozenset[State]] = {  # a state missing here is final
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.QUEUED, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
}
FINAL = frozenset(State) - MOVES.keys()
UNDER_WAY = frozenset({State.RUNNING, State.CANCELLING})  # an attempt holds a slot

DECIDE: dict[tuple[State, Seen], Act] = {  # anything else: nothing to do
    (State.QUEUED, Seen.NOTHING): Act.START,
    (State.RUNNING, Seen.FINISHED): Act.MARK_SUCCEEDED,
    (State.RUNNING, Seen.RESUMABLE): Act.REQUEUE,  # it was asked to stop, not by us: its machine is going away
    (State.RUNNING, Seen.DATA_BAD): Act.FAIL,
    (State.RUNNING, Seen.CRASHED): Act.RETRY_OR_FAIL,
    (State.RUNNING, Seen.NOTHING): Act.RETRY_OR_FAIL,  # its machine vanished, or we died before it started
    (State.CANCELLING, Seen.PENDING): Act.STOP,
    (State.CANCELLING, Seen.RUNNING): Act.STOP,
    (State.CANCELLING, Seen.FINISHED): Act.MARK_SUCCEEDED,  # it finished before we stopped it
    (State.CANCELLING, Seen.RESUMABLE): Act.MARK_CANCELLED,
    (State.CANCELLING, Seen.DATA_BAD): Act.MARK_CANCELLED,
    (State.CANCELLING, Seen.CRASHED): Act.MARK_CANCELLED,
    (State.CANCELLING, Seen.NOTHING): Act.MARK_CANCELLED,
}


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
