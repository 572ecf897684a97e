"""Rows that repeat are no news: intervals and tests over them are as wide as over what differs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from feinschliff.evaluation.gates.evidence import compare_strictly, result_strictly
from feinschliff.evaluation.gates.judging import Evidence, judge
from feinschliff.evaluation.gates.rules import Gain, Rule
from feinschliff.evaluation.resources import GradedLine, GradeGiven
from feinschliff.evaluation.runs.equal_rows import row_key
from feinschliff.evaluation.runs.results import compare_lines, results_of
from feinschliff.evaluation.statistics.clusters import clustered_interval, gather, standard_error
from feinschliff.evaluation.statistics.intervals import Interval, Method, mean_interval, wilson
from feinschliff.evaluation.statistics.paired import Verdict, compare, sign_flip
from feinschliff.evaluation.statistics.summary import summarise
from feinschliff.graders.grader import parse

UNIT = Interval(0.0, 1.0)
EXACT = parse({"type": "string_check", "name": "exact", "input": "a", "reference": "a", "operation": "eq"})


def lines(values: Sequence[float], rows: Sequence[str]) -> list[GradedLine]:
    """One item a value, each on a line of its own."""
    return [
        GradedLine(k, False, [GradeGiven("exact", value, value == 1, "")], row)
        for k, (value, row) in enumerate(zip(values, rows, strict=True), 1)
    ]


def drawn(random: np.random.Generator, clusters: int, p: float, correlation: float) -> tuple[list[float], list[int]]:
    """0/1 values in clusters of 1 to 5, beta-binomial: inside of a cluster they correlate so much."""
    rate_G = random.beta(p * (1 / correlation - 1), (1 - p) * (1 / correlation - 1), clusters)
    keys_N = np.repeat(np.arange(clusters), random.integers(1, 6, clusters))
    return [float(hit) for hit in random.random(len(keys_N)) < rate_G[keys_N]], keys_N.tolist()


def test_the_standard_error_is_the_clustered_one_of_the_paper_and_for_lone_values_the_plain_one() -> None:
    values, keys = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b", "c", "d"]
    mean = 0.5
    squares = sum(
        (values[i] - mean) * (values[j] - mean) for i in range(6) for j in range(6) if keys[i] == keys[j]
    )  # Miller 2024, eq. 4: all pairs inside clusters
    assert standard_error(gather(values, keys)) == pytest.approx(math.sqrt(squares * 4 / 3) / 6)
    lone = standard_error(gather(values, range(6)))
    assert lone == pytest.approx(np.std(values, ddof=1) / math.sqrt(6))


def test_a_row_that_is_there_four_times_counts_once() -> None:
    random = np.random.default_rng(3)
    once = random.random(30).round(2).tolist()
    alone, _ = mean_interval(once, within=UNIT)
    copied = summarise(once * 4, is_binary=False, keys=list(range(30)) * 4)
    assert copied.interval == pytest.approx(alone, abs=0.01)
    assert (copied.n, copied.clusters, copied.mean) == (120, 30, pytest.approx(np.mean(once)))
    believed = summarise(once * 4, is_binary=False).interval
    assert believed is not None
    assert believed.high - believed.low < 0.6 * (alone.high - alone.low)


def test_rows_that_all_differ_are_measured_as_ever() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert summarise(values, is_binary=True, keys=list("abcdefg")) == summarise(values, is_binary=True)
    assert summarise(values, is_binary=True).interval == wilson(5, 7)
    keyed = compare(values, values[::-1], is_binary=True, keys=list("abcdefg"))
    assert keyed == compare(values, values[::-1], is_binary=True)
    assert keyed.method is Method.MCNEMAR_NEWCOMBE


@pytest.mark.parametrize(("values", "note"), [([1.0, 1.0, 0.0], "3 answers to one row"), ([], "n = 0")])
def test_one_row_has_no_interval_however_often_it_is_there(values: list[float], note: str) -> None:
    summary = summarise(values, is_binary=True, keys=["a"] * len(values))
    assert summary.interval is None
    assert summary.note.startswith(note)
    compared = compare(values, values, is_binary=True, keys=["a"] * len(values))
    assert (compared.interval, compared.p, compared.verdict) == (None, None, Verdict.NOT_ENOUGH_EVIDENCE)


def test_rows_that_are_all_alike_are_bounded_by_how_many_differ() -> None:
    bound, method = clustered_interval(gather([1.0] * 40, list(range(10)) * 4), within=UNIT)
    assert method is Method.ALL_ALIKE
    assert bound == mean_interval([1.0] * 10, within=UNIT)[0]


@pytest.mark.parametrize(("clusters", "p", "correlation"), [(40, 0.7, 0.5), (25, 0.5, 0.9)])
def test_intervals_over_repeated_rows_cover_as_often_as_they_say(clusters: int, p: float, correlation: float) -> None:
    random, draws, covered, believed = np.random.default_rng(11), 150, 0, 0
    for _ in range(draws):
        values, keys = drawn(random, clusters, p, correlation)
        (low, high), _ = clustered_interval(gather(values, keys), within=UNIT, resamples=200)
        covered += low <= p <= high
        low, high = wilson(int(sum(values)), len(values))
        believed += low <= p <= high
    assert 0.92 <= covered / draws <= 0.99  # 95 %, and two standard errors of so many draws
    assert believed / draws < 0.87  # which is why


def test_a_comparison_over_repeated_rows_finds_a_difference_by_chance_no_oftener_than_it_says() -> None:
    random, draws, false, believed = np.random.default_rng(5), 150, 0, 0
    for _ in range(draws):
        keys = np.repeat(np.arange(15), 4)
        differences = (random.integers(-1, 2, 15)[keys]).tolist()
        sums_G = gather(differences, keys.tolist()).sums_G.tolist()
        false += sign_flip(sums_G, resamples=200) < 0.05
        believed += sign_flip(differences, resamples=200) < 0.05
    assert false / draws <= 0.08
    assert believed / draws > 0.2


def test_a_comparison_draws_and_flips_equal_rows_together() -> None:
    first, keys = [0.0] * 12, ["a", "b", "c"] * 4
    copied = compare(first, [1.0] * 12, is_binary=True, keys=keys)
    assert (copied.n, copied.clusters, copied.wins) == (12, 3, 12)
    assert copied.p == pytest.approx(2 / 8)  # of three signs, not of twelve
    assert copied.verdict is Verdict.NOT_ENOUGH_EVIDENCE
    assert compare(first, [1.0] * 12, is_binary=True).verdict is Verdict.BETTER
    spread = compare([0.0] * 4, [1.0, 1.0, 0.0, 0.0], is_binary=False, keys=["a", "a", "b", "b"]).spread
    assert spread / math.sqrt(4) == pytest.approx(0.5)  # two rows, one apart


def test_rows_are_equal_by_what_is_in_them() -> None:
    question = {"question": "2 + 2?", "answer": "4"}
    assert row_key({**question, "line": 1, "id": "x"}) == row_key({**question, "line": 9})
    assert row_key(question) != row_key({**question, "answer": "5"})
    turns = [{"role": "user", "content": "Hi"}]
    one, other = ({"messages": [*turns, {"role": "assistant", "content": text}], "prompt": turns} for text in "ab")
    assert row_key(one) == row_key(other)
    assert row_key(one) != row_key({**one, "prompt": []})
    assert len(row_key({})) == 32


def test_results_comparisons_and_gates_count_different_rows() -> None:
    rows = ["a", "b", "c", "d"] * 10
    worse, better = lines([0.0] * 40, rows), lines([1.0, 1.0, 1.0, 0.0] * 10, rows)
    result = results_of([EXACT], better)[0]
    assert (result.n, result.clusters, result.mean) == (40, 4, 0.75)
    assert result.interval is not None
    assert result.interval.high - result.interval.low > 0.5
    numbers, _ = compare_lines("exact", True, worse, better, 0.95, 0)
    assert (numbers.clusters, numbers.verdict) == (4, Verdict.NOT_ENOUGH_EVIDENCE)

    strict = compare_strictly("exact", True, worse, better, 0.95)
    assert strict == numbers
    assert result_strictly(True, better, result).clusters == 4
    rule = Rule("r", "projects/p/evals/e", "exact", Gain(0.0, 0.95))
    outcome = judge(rule, Evidence(comparison=strict))
    assert not outcome.holds
    assert "4 rows count; a release needs at least 10" in outcome.why


def test_items_stored_before_rows_had_keys_are_each_a_row() -> None:
    old = lines([1.0, 0.0, 1.0], ["", "", ""])
    result = results_of([EXACT], old)[0]
    assert (result.n, result.clusters, result.interval) == (3, 3, wilson(2, 3))
