"""Tests of bias: pairs of sentences, swapped terms, gaps between groups."""

from __future__ import annotations

import numpy as np
import pytest

from feinschliff.evaluation.gates import fairness
from feinschliff.evaluation.gates.fairness import (
    PairScores,
    SwapGrades,
    group_gap,
    minimal_pairs,
    swap_all,
    swapper,
    term_swaps,
)
from feinschliff.evaluation.statistics.intervals import Interval


def pairs(more: int, less: int, group: str = "") -> list[PairScores | None]:
    return [PairScores(-1.0, -2.0, group)] * more + [PairScores(-2.0, -1.0, group)] * less


def test_a_model_that_prefers_no_sentence_has_no_effect_and_one_that_always_does_has_all() -> None:
    even, always = minimal_pairs(pairs(50, 50)), minimal_pairs(pairs(100, 0))
    assert even.effect == 0.0
    assert even.interval is not None
    assert even.interval.low == 0.0
    assert even.interval.high == pytest.approx(0.0962, abs=1e-3)
    assert always.effect == 0.5
    assert always.interval is not None
    assert always.interval.high == 0.5
    assert always.interval.low == pytest.approx(0.463, abs=1e-3)


def test_pairs_count_by_group_and_what_could_not_be_scored_is_told_apart() -> None:
    found = minimal_pairs([*pairs(8, 2, "age"), *pairs(5, 5, "faith"), None, None])
    assert (found.n, found.left_out) == (20, 2)
    assert [(group.group, group.n, group.mean) for group in found.groups] == [("age", 10, 0.8), ("faith", 10, 0.5)]
    assert minimal_pairs([None]).effect is None
    assert minimal_pairs([PairScores(-1.0, -1.0)]).effect == 0.0


def test_swaps_count_the_rows_that_pass_only_one_way() -> None:
    rows = [SwapGrades("he/she", True, True)] * 6 + [SwapGrades("he/she", True, False)] * 2
    rows += [SwapGrades("Ann/Bob", False, True)] * 2 + [SwapGrades("he/she", None, True)]
    found = term_swaps(rows)
    assert (found.n, found.left_out, found.effect) == (10, 1, 0.4)
    assert {group.group: group.mean for group in found.groups} == {"Ann/Bob": 1.0, "he/she": 0.25}
    assert term_swaps([]).effect is None


def test_a_gap_is_between_the_best_and_the_worst_group_and_small_groups_stay_out() -> None:
    rows: list[tuple[str | None, float | None]] = [("a", 1.0)] * 90 + [("a", 0.0)] * 10
    rows += [("b", 1.0)] * 60 + [("b", 0.0)] * 40 + [("c", 1.0)] * 75 + [("c", 0.0)] * 25
    rows += [("tiny", 0.0)] * 5 + [(None, 1.0), ("a", None)]
    found = group_gap(rows)
    assert (found.n, found.left_out) == (300, 7)
    assert found.effect == pytest.approx(0.3)
    assert found.interval is not None
    assert 0.1 < found.interval.low < 0.3 < found.interval.high < 0.5
    assert [group.group for group in found.groups] == ["a", "b", "c"]
    assert group_gap([("only", 1.0)] * 20).effect is None


def test_equal_groups_seldom_have_a_gap_whose_interval_leaves_out_zero() -> None:
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        values = (random.random(160) < 0.7).astype(float)
        found = group_gap([(f"g{k % 4}", float(value)) for k, value in enumerate(values)])
        assert found.interval is not None
        wrong += found.interval.low > 0
    assert wrong / 300 <= 0.06


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("He said she did", "She said he did"),
        ("THE cat sat", "THE cat sat"),
        ("HE is here", "SHE is here"),
        ("The theme", "The theme"),  # whole words only
        ("Mary Ann and Bob", "Bob and Mary Ann"),
        ("he, (she)!", "she, (he)!"),
    ],
)
def test_terms_are_swapped_both_ways_as_whole_words_in_their_case(text: str, swapped: str) -> None:
    swap = swapper([("he", "she"), ("Mary Ann", "Bob")])
    assert swap(text)[0] == swapped
    assert swap(swap(text)[0])[0] == text


def test_all_texts_of_a_row_are_swapped_and_nothing_else() -> None:
    swap = swapper([("he", "she")])
    row = {"he": [1, "he", {"a": "she"}], "n": 2, "none": None}
    assert swap_all(row, swap) == ({"he": [1, "she", {"a": "he"}], "n": 2, "none": None}, "he/she")
    assert swap_all({"a": "nothing"}, swap) == ({"a": "nothing"}, "")


def test_every_group_is_resampled_once_and_too_many_groups_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    resampled = []

    def interval(values: list[float], **_: object) -> tuple[Interval, None]:
        resampled.append(len(values))
        return Interval(0.4, 0.6), None

    monkeypatch.setattr(fairness, "mean_interval", interval)
    few = group_gap([(f"g{k % 20}", 0.5) for k in range(400)])
    assert (few.interval, len(resampled)) == (Interval(0.0, pytest.approx(0.1414, abs=1e-3)), 40)  # shown and compared
    many = group_gap([(f"g{k % 101}", 0.5) for k in range(1010)])
    assert (many.n, many.effect, many.interval, len(resampled)) == (1010, None, None, 40)
