"""The life of a run as data: where it may go, and what to do about where it is."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import Enum

from feinschliff.kit.errors import WrongState


class State(Enum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


MOVES: Mapping[State, Set[State]] = {  # from a state, where a run may go; a state missing here is final
    State.QUEUED: {State.RUNNING, State.CANCELLED, State.FAILED},
    State.RUNNING: {State.CANCELLING, State.COMPLETED, State.FAILED},
    State.CANCELLING: {State.CANCELLED, State.COMPLETED, State.FAILED},
}
UNFINISHED = frozenset(MOVES)


class Seen(Enum):
    """Who works on a run, as one process sees it."""

    NOBODY = "nobody"
    US = "us"
    OTHERS = "others"


class Act(Enum):
    NOTHING = "nothing"
    START = "start"
    KEEP = "keep"
    STOP = "stop"
    MARK_CANCELLED = "mark_cancelled"


_DECIDE: Mapping[tuple[State, Seen], Act] = {
    (State.QUEUED, Seen.NOBODY): Act.START,
    (State.RUNNING, Seen.NOBODY): Act.START,  # whoever worked on it died; the stored items are kept
    (State.RUNNING, Seen.US): Act.KEEP,
    (State.CANCELLING, Seen.US): Act.STOP,
    (State.CANCELLING, Seen.NOBODY): Act.MARK_CANCELLED,
}


def decide(state: State, seen: Seen, *, has_room: bool) -> Act:
    """What this process does about a run; `has_room` says whether it can take one more."""
    act = _DECIDE.get((state, seen), Act.NOTHING)
    return Act.NOTHING if act is Act.START and not has_room else act


def move(name: str, state: State, to: State) -> None:
    """Raises WrongState RUN_STATE_FORBIDS unless a run may go from `state` to `to`."""
    if to not in MOVES.get(state, frozenset()):
        message = f"A {state.value} run cannot become {to.value}."
        raise WrongState("RUN_STATE_FORBIDS", message, run=name, state=state.value, wanted=to.value)
