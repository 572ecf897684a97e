"""Many comparisons, differences that matter, rows needed; and 10,000 comparisons of models that are alike."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.evaluation.statistics import effects, intervals, paired
from feinschliff.evaluation.statistics.intervals import Interval, wilson
from feinschliff.evaluation.statistics.paired import ALPHA, Verdict, compare, mcnemar, newcombe

ROUNDS = 10_000


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # Holm: 3 x 0.01, 2 x 0.03, then never below the one before
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_corrects_for_being_many(ps: list[float], adjusted: list[float]) -> None:
    assert effects.holm(ps) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_value_and_bonferroni(ps: list[float]) -> None:
    adjusted = effects.holm(ps)
    assert all(p <= q <= min(1.0, p * len(ps)) + 1e-12 or q <= 1.0 for p, q in zip(ps, adjusted, strict=True))
    ranked = sorted(zip(ps, adjusted, strict=True))
    assert [q for _, q in ranked] == sorted(q for _, q in ranked)


def test_the_best_of_many_equal_candidates_is_seldom_called_better() -> None:
    random = np.random.default_rng(11)
    ps = random.uniform(size=(2000, 8))
    plain = np.mean(ps.min(axis=1) < ALPHA)
    corrected = np.mean([min(effects.holm(row)) < ALPHA for row in ps])
    assert plain > 0.25
    assert corrected <= ALPHA + 0.01


def test_a_difference_too_small_to_matter_is_no_evidence() -> None:
    first, second = [0.0] * 60 + [1.0] * 140, [1.0] * 20 + [0.0] * 40 + [1.0] * 140
    numbers = compare(first, second, is_binary=True)
    assert numbers.interval is not None
    assert effects.judged(numbers, numbers.p) is Verdict.BETTER
    assert effects.judged(numbers, numbers.p, difference_min=0.05) is Verdict.BETTER
    assert effects.judged(numbers, numbers.p, difference_min=0.1) is Verdict.NOT_ENOUGH_EVIDENCE
    assert effects.judged(numbers, ALPHA) is Verdict.NOT_ENOUGH_EVIDENCE
    back = compare(second, first, is_binary=True)
    assert effects.judged(back, back.p, difference_min=0.05) is Verdict.WORSE
    assert effects.judged(back, back.p, difference_min=0.1) is Verdict.NOT_ENOUGH_EVIDENCE


def test_power_and_rows_needed_agree_and_say_nothing_where_nothing_can_be_said() -> None:
    rows = effects.rows_needed(0.5, 0.1)
    assert rows == 197  # (1.95996 + 0.84162)^2 * 25, rounded up
    assert effects.power(0.5, 0.1, rows) == pytest.approx(0.8, abs=0.002)
    assert effects.power(0.5, -0.1, 4 * rows) == pytest.approx(0.9998, abs=1e-3)
    assert effects.rows_needed(0.5, 0.0) is effects.rows_needed(0.0, 0.1) is effects.rows_needed(1.0, 1e-9) is None
    assert effects.power(0.0, 0.1, 100) is effects.power(0.5, 0.1, 1) is effects.power(0.5, 0.0, 100) is None


def test_the_power_promised_is_the_power_had() -> None:
    random = np.random.default_rng(5)
    n, difference, spread = 60, 0.2, 0.5
    promised = effects.power(spread, difference, n)
    draws = random.normal(difference, spread, size=(400, n))
    found = np.mean([paired.sign_flip(row, resamples=500) < ALPHA for row in draws])
    assert promised is not None
    assert found == pytest.approx(promised, abs=0.06)


@pytest.mark.parametrize(("n", "right", "alike"), [(50, 0.7, 0.0), (200, 0.5, 0.6), (1000, 0.9, 0.3)])
def test_of_10000_comparisons_of_equal_models_few_say_better_and_intervals_cover(
    n: int, right: float, alike: float
) -> None:
    """`alike` is the share of rows on which both models do the same."""
    random = np.random.default_rng(n)
    p11 = right * (alike + (1 - alike) * right)
    p10 = right - p11
    tables = random.multinomial(n, [p11, p10, p10, 1 - p11 - 2 * p10], size=ROUNDS)
    seen = {tuple(int(count) for count in table) for table in tables}
    p_of = {table: mcnemar(table[1], table[2]) for table in seen}
    interval_of = {table: newcombe(*table) for table in seen}
    rows = [tuple(int(count) for count in table) for table in tables]
    better = np.mean([p_of[row] < ALPHA and row[1] > row[2] for row in rows])
    worse = np.mean([p_of[row] < ALPHA and row[1] < row[2] for row in rows])
    assert better + worse <= ALPHA + 0.01
    covered = np.mean([interval_of[row].low <= 0 <= interval_of[row].high for row in rows])
    assert 0.93 <= covered <= 0.97 + 0.005 * (n < 100)


@pytest.mark.parametrize(("n", "p"), [(60, 0.4), (200, 0.8), (1000, 0.5), (300, 0.95)])
def test_wilson_intervals_of_10000_runs_cover_the_truth(n: int, p: float) -> None:
    interval = cache(lambda successes: wilson(successes, n))
    hits = [interval(int(k)) for k in np.random.default_rng(n).binomial(n, p, size=ROUNDS)]
    assert 0.93 <= np.mean([one.low <= p <= one.high for one in hits]) <= 0.97


def test_of_10000_graded_comparisons_of_equal_models_few_say_better_and_intervals_cover() -> None:
    """With 200 draws each, not the 10,000 of a served comparison: the level is exact for any number of draws."""
    random = np.random.default_rng(3)
    better = covered = 0
    for _ in range(ROUNDS):
        skewed = random.beta(2, 5, size=40) - random.beta(2, 5, size=40)
        if paired.sign_flip(skewed, resamples=199) < ALPHA:
            better += skewed.mean() > 0
        interval, _ = intervals.mean_interval(skewed, within=Interval(-1, 1), resamples=200)
        covered += interval.low <= 0 <= interval.high
    assert better / ROUNDS <= ALPHA / 2 + 0.01
    assert 0.93 <= covered / ROUNDS <= 0.97
