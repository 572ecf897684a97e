"""Drafts by lookup: what is proposed, what is forgotten, and how much is drafted for which row."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from feinschliff.inference.engine import GenerationRequest
from feinschliff.inference.engines import drafting
from feinschliff.inference.engines.drafting import Chance, counts, draft, fixed_tokens
from feinschliff.inference.engines.lookup import Lookup, Pace
from feinschliff.inference.engines.row import Row

SIZES = (8, 4, 2)
FIXED = 20.0


def looked_up(text: Sequence[int], count: int) -> list[int]:
    """As Lookup, by a scan from the end."""
    for size in SIZES:
        for behind in range(len(text) - 1, size - 1, -1):
            if text[behind - size : behind] == text[-size:]:
                grown = list(text)
                for at in range(count):
                    grown.append(grown[behind + at])
                return grown[len(text) :]
    return []


@pytest.mark.parametrize("seed", range(20))
def test_a_text_goes_on_as_behind_the_latest_place_of_the_longest_run(seed: int) -> None:
    chosen = random.Random(seed)
    text = [chosen.randrange(4) for _ in range(chosen.randrange(30))]
    lookup = Lookup(text)
    for _ in range(60):
        count = chosen.randrange(1, 9)
        assert lookup.propose(count) == looked_up(text, count)
        assert (lookup.share() > 0) == bool(looked_up(text, 1))
        text.append(chosen.randrange(4))
        lookup.add(text[-1])


def test_what_repeats_itself_is_drafted_beyond_its_end() -> None:
    assert Lookup([1, 2, 3, 9, 1, 2, 3, 9]).propose(7) == [1, 2, 3, 9, 1, 2, 3]
    assert Lookup([5, 6, 7, 7, 7]).propose(3) == [7, 7, 7]


def test_a_text_that_is_new_or_short_proposes_nothing() -> None:
    for text in ([], [1], [1, 2], [1, 2, 3, 4, 5, 1]):
        assert Lookup(text).propose(4) == []
        assert Lookup(text).share() == 0


def test_old_places_are_forgotten_and_the_memory_stays_bounded() -> None:
    lookup = Lookup([1, 2, 3, *range(10, 60)], kept_tokens=64)
    for token in (1, 2):
        lookup.add(token)
    assert lookup.propose(1) == [3]
    for token in range(1000, 3000):
        lookup.add(token)
    for token in (10, 11):
        lookup.add(token)
    assert lookup.propose(1) == []
    assert len(lookup._behind) <= len(SIZES) * 65
    again = Lookup([1, 2, 3, *range(1000, 3000), 1, 2], kept_tokens=64)
    assert again.propose(1) == []


def test_longer_runs_are_believed_more() -> None:
    text = list(range(100, 120))
    shares = [Lookup([*text, 1, *text[:size]]).share() for size in (2, 4, 8)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5 < 0.9 < shares[2]


def test_where_drafts_fail_they_are_expected_to_fail_until_that_is_long_ago() -> None:
    pace = Pace(0.5)
    for _ in range(10):
        pace.note(drafted=4, held=0)
    assert pace.share < 0.1
    for _ in range(200):
        pace.fade()
    assert pace.share > 0.4
    for _ in range(10):
        pace.note(drafted=4, held=4)
    assert pace.share > 0.9


def test_the_first_token_that_fails_says_nothing_of_those_behind_it() -> None:
    one, other = Pace(0.5), Pace(0.5)
    one.note(drafted=2, held=1)
    other.note(drafted=16, held=1)
    assert one.share == other.share


def test_a_row_alone_drafts_what_is_likely_and_hardly_what_is_not() -> None:
    assert counts([Chance(8, 0.95, 1.0)], fixed=FIXED) == [8]
    assert counts([Chance(16, 0.5, 1.0)], fixed=FIXED) == [3]  # 0.5^3 > 1.2 * 1.75 / 23, 0.5^4 < 1.2 * 1.875 / 24
    assert counts([Chance(16, 0.04, 1.0)], fixed=FIXED) == [0]
    assert counts([Chance(0, 0.95, 1.0)], fixed=FIXED) == [0]


def test_among_many_rows_only_what_is_nearly_sure_is_drafted() -> None:
    assert counts([Chance(16, 0.5, 1.0)] * 32, fixed=FIXED) == [0] * 32
    chosen = counts([Chance(16, 0.5, 1.0)] * 31 + [Chance(16, 0.97, 1.0)], fixed=FIXED)
    assert chosen[:31] == [0] * 31
    assert chosen[31] == 2


def test_no_draft_costs_more_than_its_row_s_part_of_the_step() -> None:
    for rows in (1, 2, 5, 10, 20):
        chosen = counts([Chance(64, 0.99, 1.0)] + [Chance(0, 0.0, 1.0)] * (rows - 1), fixed=FIXED)
        assert chosen[0] == pytest.approx((FIXED + rows) / rows, abs=1)


def test_far_positions_cost_more() -> None:
    near, far = counts([Chance(16, 0.8, 1.0), Chance(16, 0.8, 5.0)], fixed=FIXED)
    assert near > far


def row(prompt: Sequence[int], **more: object) -> Row:
    request = GenerationRequest(prompt, **{"max_tokens": 20, **more})  # type: ignore[arg-type]
    made = Row.of(request, lambda event: None, decode=lambda ids: "", stop_ids=(7,))
    made.accept(1)
    made.look_up()
    return made


def test_a_draft_ends_with_the_answer() -> None:
    text = [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12] * 2
    assert draft([row(text, max_tokens=4)], 16, fixed=FIXED) == [
        [2, 3]
    ]  # a first token is said, one comes without a draft
    assert draft([row(text, max_tokens=2)], 16, fixed=FIXED) is None
    assert draft([row([1, 2, 7, 4, 5, 6, 8, 9, 10, 11, 12] * 2)], 16, fixed=FIXED) == [[2, 7]]
    assert draft([row(text)], 5, fixed=FIXED) == [[2, 3, 4, 5, 6]]


def test_rows_that_nothing_is_known_of_draft_nothing() -> None:
    assert draft([row(range(10, 30))], 16, fixed=FIXED) is None
    known, new = [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12] * 2, row(range(10, 30))
    new.lookup = None
    found = draft([new, row(known)], 4, fixed=FIXED)
    assert found is not None
    assert found[0] == []
    assert found[1]


def test_what_a_step_costs_beside_its_tokens_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(drafting.time, "perf_counter", lambda: clock[0])

    def taking(fixed: float, a_token: float) -> Callable[[int], None]:
        def step(tokens: int) -> None:
            clock[0] += fixed + a_token * tokens

        return step

    assert fixed_tokens(taking(8.4, 0.4)) == pytest.approx(21)
    assert fixed_tokens(taking(0.1, 0.4)) == 8
    assert fixed_tokens(taking(8.0, 0.0)) == 40
