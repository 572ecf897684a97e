"""What is done about a run, and about the failure of a call, as tables."""

from __future__ import annotations

import itertools

import pytest

from feinschliff.evaluation.life import MOVES, UNFINISHED, Act, Seen, State, decide, move
from feinschliff.evaluation.work.failures import PAUSE_LONGEST_SECONDS, Fate, failure_of, fate_of, pause_seconds
from feinschliff.evaluation.work.patience import Halt, Patience
from feinschliff.kit.clock import ManualClock
from feinschliff.kit.errors import (
    Conflict,
    Denied,
    Exhausted,
    Internal,
    Invalid,
    NotFound,
    Refusal,
    TimedOut,
    Unavailable,
    WrongState,
)

WANTED = {
    (State.QUEUED, Seen.NOBODY): Act.START,
    (State.RUNNING, Seen.NOBODY): Act.START,
    (State.RUNNING, Seen.US): Act.KEEP,
    (State.CANCELLING, Seen.US): Act.STOP,
    (State.CANCELLING, Seen.NOBODY): Act.MARK_CANCELLED,
}


@pytest.mark.parametrize(("state", "seen"), list(itertools.product(State, Seen)))
def test_each_situation_has_one_act(state: State, seen: Seen) -> None:
    act = WANTED.get((state, seen), Act.NOTHING)
    assert decide(state, seen, has_room=True) is act
    assert decide(state, seen, has_room=False) is (Act.NOTHING if act is Act.START else act)


@pytest.mark.parametrize(("state", "seen"), list(itertools.product(State, Seen)))
def test_what_others_work_on_and_what_is_over_is_left_alone(state: State, seen: Seen) -> None:
    if seen is Seen.OTHERS or state not in UNFINISHED:
        assert decide(state, seen, has_room=True) is Act.NOTHING


@pytest.mark.parametrize(("state", "to"), list(itertools.product(State, State)))
def test_a_run_moves_only_where_it_may(state: State, to: State) -> None:
    if to in MOVES.get(state, frozenset()):
        move("run", state, to)
        return
    with pytest.raises(WrongState) as refusal:
        move("run", state, to)
    assert refusal.value.reason == "RUN_STATE_FORBIDS"
    assert refusal.value.metadata["wanted"] == to.value


def test_every_run_can_come_to_an_end() -> None:
    final = set(State) - UNFINISHED
    reachable, edge = {State.QUEUED}, {State.QUEUED}
    while edge:
        edge = {to for state in edge for to in MOVES.get(state, frozenset())} - reachable
        reachable |= edge
    assert reachable == set(State)
    assert all(MOVES[state] & final for state in UNFINISHED)


@pytest.mark.parametrize(
    ("refusal", "fate"),
    [
        (Unavailable("SERVICE_UNREACHABLE", ""), Fate.WAIT),
        (Exhausted("QUEUE_FULL", ""), Fate.WAIT),
        (Conflict("WRITE_CONFLICT", ""), Fate.WAIT),
        (NotFound("MODEL_NOT_LOADED", ""), Fate.WAIT),
        (WrongState("MODEL_NOT_LOADED", ""), Fate.WAIT),
        (TimedOut("DEADLINE_EXCEEDED", ""), Fate.RETRY),
        (Internal("INTERNAL", ""), Fate.RETRY),
        (Invalid("CONTEXT_TOO_LONG", ""), Fate.GIVE_UP),
        (NotFound("MODEL_NOT_FOUND", ""), Fate.GIVE_UP),
        (Denied("KEY_WITHOUT_RIGHT", ""), Fate.GIVE_UP),
    ],
)
def test_a_failed_call_has_one_fate(refusal: Refusal, fate: Fate) -> None:
    assert fate_of(refusal) is fate
    assert failure_of(refusal).retryable is (fate is not Fate.GIVE_UP)


def test_a_reason_that_is_none_is_stored_as_such() -> None:
    assert failure_of(Internal("", "proxy said no")).reason == "STATUS_WITHOUT_REASON"


def test_pauses_grow_up_to_a_bound_and_follow_what_is_asked_for() -> None:
    plain = Unavailable("SERVICE_UNREACHABLE", "")
    pauses = [pause_seconds(plain, attempt) for attempt in range(30)]
    assert pauses == sorted(pauses)
    assert 0 < pauses[0] < 1
    assert pauses[-1] == PAUSE_LONGEST_SECONDS
    assert pause_seconds(Unavailable("X", "", retry_after_seconds=1.5), 0) == 1.5
    assert pause_seconds(Unavailable("X", "", retry_after_seconds=1e9), 0) == PAUSE_LONGEST_SECONDS


def test_nobody_waits_long_for_a_model_that_nobody_deployed() -> None:
    clock = ManualClock()
    patience, missing = Patience(clock, 300), WrongState("MODEL_NOT_LOADED", "No deployment serves it.")
    patience.failed(missing)
    clock.advance(61)
    with pytest.raises(Halt):
        patience.failed(missing)


def test_patience_counts_from_the_first_failure_in_a_row() -> None:
    clock, refusal = ManualClock(), Unavailable("SERVICE_UNREACHABLE", "gone")
    patience = Patience(clock, 10)
    clock.advance(1000)
    patience.failed(refusal)
    clock.advance(9)
    patience.failed(refusal)
    patience.succeeded()
    clock.advance(5)
    patience.failed(refusal)
    clock.advance(10)
    with pytest.raises(Halt) as halt:
        patience.failed(refusal)
    assert (halt.value.failure.reason, halt.value.failure.retryable) == ("SERVICE_UNREACHABLE", True)
