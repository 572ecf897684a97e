"""The numbers equal published or reference values, and hold their promises for every input."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.evaluation.statistics import intervals, paired
from feinschliff.evaluation.statistics.intervals import Interval, Method
from feinschliff.evaluation.statistics.paired import Verdict, compare
from feinschliff.evaluation.statistics.summary import summarise

counts = st.integers(min_value=0, max_value=300)
binary_grades = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=80)
pairs = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40)
binary_pairs = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2, max_size=80)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # statsmodels 0.14, proportion_confint(method="wilson")
        (15, 20, 0.5312991, 0.8881383),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        # Newcombe 1998a, table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_the_published_interval(successes: int, n: int, low: float, high: float) -> None:
    assert intervals.wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


@given(n=st.integers(1, 500), data=st.data())
def test_wilson_holds_the_proportion_within_0_and_1(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = intervals.wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = intervals.wilson(n - successes, n)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        # statsmodels 0.14, mcnemar(exact=True)
        (1, 9, 0.021484375),
        (0, 3, 0.25),
        (12, 2, 0.012939453125),
        (30, 61, 0.0015165131944572),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (0, 1, 1.0),
    ],
)
def test_mcnemar_equals_the_reference(wins: int, losses: int, p: float) -> None:
    assert paired.mcnemar(wins, losses) == pytest.approx(p, rel=1e-12)
    assert paired.mcnemar(losses, wins) == pytest.approx(p, rel=1e-12)


def test_mcnemar_neither_overflows_nor_vanishes_on_many_pairs() -> None:
    assert paired.mcnemar(5_000, 5_000) == 1.0
    assert 0 < paired.mcnemar(4_800, 5_200) < 1e-4


@given(wins=counts, losses=counts)
def test_mcnemar_is_a_probability_and_falls_as_the_sides_part(wins: int, losses: int) -> None:
    p = paired.mcnemar(wins, losses)
    assert 0 < p <= 1
    further = paired.mcnemar(wins + 1, losses) if wins >= losses else paired.mcnemar(wins, losses + 1)
    assert further <= p


@pytest.mark.parametrize(
    ("both", "wins", "losses", "neither", "low", "high"),
    [
        # Newcombe 1998b, table III, method 10
        (36, 12, 2, 0, 0.0569, 0.3404),
        # Fagerland, Lydersen and Laake 2014, hyper-responsiveness before and after transplantation
        (1, 7, 1, 12, 0.026, 0.507),
    ],
)
def test_newcombe_equals_the_published_interval(
    both: int, wins: int, losses: int, neither: int, low: float, high: float
) -> None:
    assert paired.newcombe(both, wins, losses, neither) == pytest.approx((low, high), abs=6e-4)


@given(both=counts, wins=counts, losses=counts, neither=counts)
def test_newcombe_holds_the_difference_and_mirrors_when_the_runs_swap(
    both: int, wins: int, losses: int, neither: int
) -> None:
    n = both + wins + losses + neither
    if n == 0:
        return
    low, high = paired.newcombe(both, wins, losses, neither)
    assert -1 <= low <= (wins - losses) / n + 1e-12
    assert (wins - losses) / n - 1e-12 <= high <= 1
    swapped = paired.newcombe(both, losses, wins, neither)
    assert (-swapped.high, -swapped.low) == pytest.approx((low, high), abs=1e-12)


def test_bootstrap_agrees_with_the_reference_on_skewed_values() -> None:
    values = [1 - (k / 40) ** 3 for k in range(40)]
    interval = intervals.bca(np.asarray(values), confidence=0.95, resamples=10_000, seed=0)
    # scipy 1.16, bootstrap(method="BCa", n_resamples=200_000)
    assert interval == pytest.approx((0.6664, 0.8373), abs=3e-3)
    wider, method = intervals.mean_interval(values, within=Interval(0, 1))
    assert method is Method.BOOTSTRAP_BCA
    assert wider.low < interval.low < interval.high < wider.high
    assert wider == pytest.approx(interval, abs=0.01)


@pytest.mark.parametrize(("n", "lowest"), [(8, 0.92), (15, 0.93), (30, 0.93)])
def test_intervals_of_few_rows_cover_the_truth_too(n: int, lowest: float) -> None:
    random, hits = np.random.default_rng(n), 0
    for _ in range(1500):
        values = random.beta(2, 5, size=n) - random.beta(2, 5, size=n)
        (low, high), _ = intervals.mean_interval(values, within=Interval(-1, 1), resamples=400)
        hits += low <= 0 <= high
    assert lowest <= hits / 1500 <= 0.97


def test_the_confidence_asked_of_a_bootstrap_falls_to_the_one_wanted_as_rows_grow() -> None:
    asked = [intervals.widened(0.95, n) for n in (2, 5, 20, 100, 10_000)]
    assert asked == sorted(asked, reverse=True)
    assert asked[0] < 1
    assert asked[-1] == pytest.approx(0.95, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=60))
def test_bootstrap_stays_within_the_values_and_repeats_itself(values: list[float]) -> None:
    first, method = intervals.mean_interval(values, within=Interval(0, 1), resamples=500)
    again, _ = intervals.mean_interval(values, within=Interval(0, 1), resamples=500)
    assert first == again
    assert first.low <= first.high
    if method is Method.BOOTSTRAP_BCA:
        assert min(values) - 1e-9 <= first.low
        assert first.high <= max(values) + 1e-9


def test_equal_values_do_not_claim_certainty() -> None:
    interval, method = intervals.mean_interval([1.0] * 10, within=Interval(0, 1))
    assert method is Method.ALL_ALIKE
    assert interval.low == pytest.approx(0.05 ** (1 / 10))
    assert interval.high == 1.0
    narrower, _ = intervals.mean_interval([1.0] * 100, within=Interval(0, 1))
    assert interval.low < narrower.low < 1.0


@pytest.mark.parametrize("n", [30, 100])
def test_intervals_cover_the_truth_about_as_often_as_they_say(n: int) -> None:
    draw = random.Random(n)
    rounds, wilson_hits, bootstrap_hits = 400, 0, 0
    for _ in range(rounds):
        binary = sum(draw.random() < 0.8 for _ in range(n))
        low, high = intervals.wilson(binary, n)
        wilson_hits += low <= 0.8 <= high
        values = [draw.betavariate(4, 2) for _ in range(n)]
        (low, high), _ = intervals.mean_interval(values, within=Interval(0, 1), resamples=600)
        bootstrap_hits += low <= 4 / 6 <= high
    assert 0.92 <= wilson_hits / rounds <= 0.99
    assert 0.91 <= bootstrap_hits / rounds <= 0.98


def test_sign_flip_is_exact_where_few_rows_differ() -> None:
    assert paired.sign_flip([0.5, 0.25, 0.125]) == pytest.approx(2 / 8)
    assert paired.sign_flip([1.0, -1.0]) == 1.0
    assert paired.sign_flip([0.0, 0.0, 0.0]) == 1.0


def test_sign_flip_by_chance_agrees_with_the_exact_answer() -> None:
    differences = [0.3] * 14 + [-0.3] * 6
    exact = paired.mcnemar(14, 6)  # equal steps make both tests the same
    assert paired.sign_flip(differences) == pytest.approx(exact, abs=0.015)
    assert paired.sign_flip(differences) == paired.sign_flip(differences)


def test_sign_flip_is_never_zero() -> None:
    assert 0 < paired.sign_flip([0.5 + k / 1000 for k in range(200)]) <= 1e-3


@given(binary_grades, st.integers(0, 5))
def test_ungradable_answers_are_counted_apart_and_change_no_mean(grades: list[float], ungradable: int) -> None:
    summary = summarise([*grades, *[None] * ungradable], is_binary=True)
    assert (summary.n, summary.ungradable) == (len(grades), ungradable)
    assert summary.mean == pytest.approx(math.fsum(grades) / len(grades))
    assert summary.interval == summarise(grades, is_binary=True).interval
    assert summary.method is Method.WILSON


@pytest.mark.parametrize("grades", [[], [None, None], [1.0], [1.0, None]])
def test_below_two_grades_there_is_no_interval_and_it_says_so(grades: list[float | None]) -> None:
    summary = summarise(grades, is_binary=True)
    assert summary.interval is None
    assert summary.mean == (1.0 if 1.0 in grades else None)
    assert summary.note == f"n = {summary.n}: no interval below n = 2"


def test_comparison_of_binary_grades_is_paired() -> None:
    first = [0.0] * 12 + [1.0] * 2 + [1.0] * 36
    second = [1.0] * 12 + [0.0] * 2 + [1.0] * 36
    result = compare(first, second, is_binary=True)
    assert (result.wins, result.losses, result.ties, result.n) == (12, 2, 36, 50)
    assert result.p == pytest.approx(0.012939453125)
    assert result.interval == pytest.approx((0.0569, 0.3404), abs=1e-4)
    assert result.difference == pytest.approx(0.2)
    assert (result.method, result.verdict) == (Method.MCNEMAR_NEWCOMBE, Verdict.BETTER)
    assert compare(second, first, is_binary=True).verdict is Verdict.WORSE


def test_a_row_that_either_run_could_not_grade_is_no_pair() -> None:
    result = compare([1.0, None, 0.0, 0.0], [1.0, 1.0, None, 1.0], is_binary=True)
    assert (result.n, result.unpaired, result.wins, result.losses) == (2, 2, 1, 0)


@pytest.mark.parametrize(("first", "second"), [([], []), ([0.0], [1.0]), ([None, 0.0], [1.0, 1.0])])
def test_below_two_pairs_there_is_no_verdict_and_it_says_so(
    first: list[float | None], second: list[float | None]
) -> None:
    result = compare(first, second, is_binary=True)
    assert (result.p, result.interval, result.verdict) == (None, None, Verdict.NOT_ENOUGH_EVIDENCE)
    assert result.note == f"n = {result.n}: no test below n = 2"


def test_graded_values_are_compared_by_their_differences() -> None:
    first = [0.4 + 0.01 * (k % 7) for k in range(30)]
    result = compare(first, [value + 0.1 + 0.001 * k for k, value in enumerate(first)], is_binary=False)
    assert result.method is Method.SIGN_FLIP_BOOTSTRAP
    assert result.verdict is Verdict.BETTER
    assert result.interval is not None
    assert 0.1 < result.interval.low < 0.1145 < result.interval.high < 0.13


@settings(max_examples=25, deadline=None)
@given(pairs)
def test_swapped_runs_give_the_mirrored_comparison(pairs: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = compare(first, second, is_binary=False), compare(second, first, is_binary=False)
    assert (there.wins, there.losses, there.ties) == (back.losses, back.wins, back.ties)
    assert there.p == pytest.approx(back.p)
    assert there.difference == pytest.approx(-(back.difference or 0.0), abs=1e-12)


@settings(deadline=None)
@given(binary_pairs)
def test_a_verdict_needs_evidence_and_has_the_sign_of_the_difference(pairs: list[tuple[float, float]]) -> None:
    result = compare([a for a, _ in pairs], [b for _, b in pairs], is_binary=True)
    assert result.p is not None
    assert result.difference is not None
    expected = Verdict.NOT_ENOUGH_EVIDENCE
    if result.p < paired.ALPHA:
        expected = Verdict.BETTER if result.difference > 0 else Verdict.WORSE
    assert result.verdict is expected


def test_equal_models_are_seldom_called_different() -> None:
    draw = random.Random(7)
    rounds = 400
    false_binary = false_graded = 0
    for _ in range(rounds):
        first = [float(draw.random() < 0.7) for _ in range(40)]
        second = [float(draw.random() < 0.7) for _ in range(40)]
        false_binary += compare(first, second, is_binary=True).verdict is not Verdict.NOT_ENOUGH_EVIDENCE
        graded = [draw.gauss(0, 0.2) for _ in range(25)]
        false_graded += paired.sign_flip(graded, resamples=400) < paired.ALPHA
    assert false_binary / rounds <= 0.06
    assert false_graded / rounds <= 0.08
