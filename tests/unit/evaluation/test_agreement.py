"""Agreement of judges with people, and what forbids to believe one."""

from __future__ import annotations

import numpy as np
import pytest

from feinschliff.evaluation.judges.agreement import Judged, doubts, kappa, kappa_interval, measure, spearman


def rows(human: str, judge: str, count: int, *, characters: int = 100, flips: bool | None = None) -> list[Judged]:
    values = {"good": 1.0, "bad": 0.0}
    one = Judged(human, judge, human == "good", judge == "good", values[human], values[judge], characters, flips)
    return [one] * count


def table(both_good: int, human_only: int, judge_only: int, both_bad: int) -> list[Judged]:
    made = rows("good", "good", both_good) + rows("good", "bad", human_only)
    return made + rows("bad", "good", judge_only) + rows("bad", "bad", both_bad)


def test_kappa_and_rates_are_those_of_the_textbook() -> None:
    found = measure(table(20, 5, 10, 15), 3, is_score=False)
    assert (found.n, found.left_out, found.agreement) == (50, 3, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert (found.true_positive_rate, found.true_negative_rate) == (0.8, 0.6)
    assert found.confusion == {"good/good": 20, "good/bad": 5, "bad/good": 10, "bad/bad": 15}
    assert found.correlation is None
    assert found.agreement_interval is not None
    assert found.kappa_interval is not None
    assert found.kappa_interval.low < 0.4 < found.kappa_interval.high


def test_kappa_is_unknown_where_chance_alone_agrees_and_below_zero_where_it_does_better() -> None:
    assert kappa([("a", "a")] * 9) is None
    assert kappa([]) is None
    assert kappa([("a", "b"), ("b", "a")]) == -1.0
    assert kappa_interval([("a", "a")] * 9) is None


def test_the_interval_of_kappa_covers_the_truth() -> None:
    random = np.random.default_rng(2)
    truth, hits = 0.6, 0  # equal margins, agreement 0.8
    for seed in range(300):
        same = random.random(120) < 0.8
        human = random.random(120) < 0.5
        pairs = [(str(h), str(h == s)) for h, s in zip(human, same, strict=True)]
        interval = kappa_interval(pairs, resamples=400, seed=seed)
        assert interval is not None
        hits += interval.low <= truth <= interval.high
    assert 0.91 <= hits / 300 <= 0.985


def test_rank_correlation_takes_ties_by_their_mean() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 25]) == pytest.approx(0.8)
    assert spearman([1, 1, 2, 2], [1, 1, 2, 2]) == pytest.approx(1.0)
    assert spearman([1, 1], [1, 2]) is None
    assert spearman([1], [1]) is None


@pytest.mark.parametrize(
    ("judged", "codes"),
    [
        (table(45, 5, 5, 45), []),
        (table(9, 1, 1, 9), ["TOO_FEW_ROWS"]),
        (table(30, 20, 20, 30), ["KAPPA_LOW"]),
        (table(50, 0, 0, 0), ["KAPPA_UNKNOWN"]),
        (rows("good", "good", 30, flips=True) + rows("bad", "bad", 30, flips=False), ["POSITION_BIAS"]),
    ],
)
def test_what_speaks_against_a_judge_forbids_it_to_gate(judged: list[Judged], codes: list[str]) -> None:
    found = doubts(measure(judged, 0, is_score=False))
    assert [doubt.code for doubt in found if doubt.forbids] == codes


def test_a_judge_that_likes_long_answers_is_told_of() -> None:
    fair = table(45, 0, 0, 45)
    long_ones = rows("bad", "good", 8, characters=900) + rows("good", "bad", 8, characters=20)
    found = measure(fair + long_ones, 4, is_score=True)
    assert found.verbosity_bias is not None
    assert found.verbosity_bias > 0.3
    assert [doubt.code for doubt in doubts(found)] == ["VERBOSITY_BIAS", "ROWS_LEFT_OUT"]
    assert found.correlation is not None
    assert not any(doubt.forbids for doubt in doubts(found))


@pytest.mark.parametrize(("left_out", "forbids"), [(11, False), (12, True)])
def test_a_judge_that_is_silent_on_many_rows_may_not_gate(left_out: int, forbids: bool) -> None:
    found = {doubt.code: doubt.forbids for doubt in doubts(measure(table(50, 0, 0, 50), left_out, is_score=False))}
    assert found == {"ROWS_LEFT_OUT": forbids}
