"""The life of a job: every (state, seen) has a decision that its moves allow."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.training.life import DECIDE, FINAL, MOVES, Act, Seen, State, backoff_seconds, seen_after_exit

LEADS_TO = {
    Act.START: {State.RUNNING},
    Act.STOP: set(),
    Act.REQUEUE: {State.QUEUED, State.FAILED},
    Act.RETRY_OR_FAIL: {State.QUEUED, State.FAILED},
    Act.FAIL: {State.FAILED},
    Act.MARK_SUCCEEDED: {State.SUCCEEDED},
    Act.MARK_CANCELLED: {State.CANCELLED},
}


@pytest.mark.parametrize(("state", "seen"), [*product(MOVES, Seen)])
def test_every_decision_is_a_move_that_its_state_allows(state: State, seen: Seen) -> None:
    act = DECIDE.get((state, seen))
    assert act is None or LEADS_TO[act] <= MOVES[state]


@pytest.mark.parametrize("state", [State.RUNNING, State.CANCELLING])
def test_a_job_whose_attempt_is_gone_is_never_left_alone(state: State) -> None:
    assert all((state, seen) in DECIDE for seen in Seen if seen not in (Seen.PENDING, Seen.RUNNING))


def test_final_states_have_no_decision() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == FINAL
    assert not any(state in FINAL for state, _ in DECIDE)


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
