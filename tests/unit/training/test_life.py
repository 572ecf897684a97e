"""The life of a job: every (state, seen) has a decision that its moves allow."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.training.life import (
    ASKED,
    DECIDE,
    FINAL,
    MOVES,
    UNDER_WAY,
    Act,
    Seen,
    State,
    Verb,
    asked,
    backoff_seconds,
    seen_after_exit,
)

LEADS_TO = {
    Act.START: {State.RUNNING},
    Act.STOP: set(),
    Act.STOP_LATER: set(),
    Act.REQUEUE: {State.QUEUED, State.FAILED},
    Act.RETRY_OR_FAIL: {State.QUEUED, State.FAILED},
    Act.FAIL: {State.FAILED},
    Act.MARK_SUCCEEDED: {State.SUCCEEDED},
    Act.MARK_CANCELLED: {State.CANCELLED},
    Act.MARK_PAUSED: {State.PAUSED},
}


@pytest.mark.parametrize(("state", "seen"), [*product(MOVES, Seen)])
def test_every_decision_is_a_move_that_its_state_allows(state: State, seen: Seen) -> None:
    act = DECIDE.get((state, seen))
    assert act is None or LEADS_TO[act] <= MOVES[state]


@pytest.mark.parametrize("state", sorted(UNDER_WAY))
def test_a_job_whose_attempt_is_gone_is_never_left_alone(state: State) -> None:
    assert all((state, seen) in DECIDE for seen in Seen if seen not in (Seen.PENDING, Seen.RUNNING))


def test_final_states_have_no_decision() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == FINAL
    assert not any(state in FINAL for state, _ in DECIDE)
    assert State.SUCCEEDED not in MOVES


def test_a_paused_job_waits_for_a_person_and_holds_nothing() -> None:
    assert State.PAUSED not in FINAL | UNDER_WAY
    assert not any(state is State.PAUSED for state, _ in DECIDE)


@pytest.mark.parametrize(
    ("seen", "act"),
    [
        (Seen.PENDING, Act.STOP),
        (Seen.RUNNING, Act.STOP_LATER),
        (Seen.FINISHED, Act.MARK_SUCCEEDED),  # done is done
        (Seen.RESUMABLE, Act.MARK_PAUSED),
        (Seen.CRASHED, Act.MARK_PAUSED),
        (Seen.NOTHING, Act.MARK_PAUSED),
        (Seen.DATA_BAD, Act.FAIL),
    ],
)
def test_what_becomes_of_a_job_that_is_to_pause(seen: Seen, act: Act) -> None:
    assert DECIDE[State.PAUSING, seen] is act


@pytest.mark.parametrize(
    ("verb", "allowed"),
    [
        (
            Verb.CANCEL,
            {
                State.QUEUED: State.CANCELLED,
                State.RUNNING: State.CANCELLING,
                State.PAUSING: State.CANCELLING,
                State.PAUSED: State.CANCELLED,
                State.CANCELLING: State.CANCELLING,
                State.CANCELLED: State.CANCELLED,
            },
        ),
        (Verb.PAUSE, {State.RUNNING: State.PAUSING, State.QUEUED: State.PAUSED}),
        (Verb.RESUME, {State.PAUSED: State.QUEUED}),
        (Verb.RETRY, {State.FAILED: State.QUEUED, State.CANCELLED: State.QUEUED}),
    ],
)
def test_what_may_be_asked_in_which_state(verb: Verb, allowed: dict[State, State]) -> None:
    assert {state: asked(verb, state, attempts=1) for state in State} == {state: allowed.get(state) for state in State}


def test_a_job_before_its_first_attempt_has_nothing_to_pause() -> None:
    assert asked(Verb.PAUSE, State.QUEUED, attempts=0) is None


@pytest.mark.parametrize(("state", "to"), sorted({(state, to) for (_, state), to in ASKED.items() if state is not to}))
def test_every_verb_is_a_move_that_its_state_allows(state: State, to: State) -> None:
    assert to in MOVES[state]


@pytest.mark.parametrize(
    ("exit_code", "committed", "seen"),
    [
        (0, True, Seen.FINISHED),
        (0, False, Seen.CRASHED),  # success is the manifest, not the exit code
        (1, True, Seen.FINISHED),
        (None, True, Seen.FINISHED),
        (75, False, Seen.RESUMABLE),
        (65, False, Seen.DATA_BAD),
        (137, False, Seen.CRASHED),
        (None, False, Seen.CRASHED),
    ],
)
def test_what_an_exit_means(exit_code: int | None, committed: bool, seen: Seen) -> None:
    assert seen_after_exit(exit_code, result_committed=committed) is seen


@given(st.integers(min_value=0, max_value=10_000))
def test_backoff_grows_to_a_minute_and_no_further(barren: int) -> None:
    assert 1 <= backoff_seconds(barren) <= backoff_seconds(barren + 1) <= 60
