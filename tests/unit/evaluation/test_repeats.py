"""Several answers per row: pass@k and pass^k are unbiased, and a row counts once."""

from __future__ import annotations

from itertools import combinations

import pytest

from feinschliff.evaluation.resources import GradedLine, GradeGiven
from feinschliff.evaluation.runs.results import compare_lines, results_of
from feinschliff.evaluation.statistics.repeats import NONE, mean_by_line, passes_by_k
from feinschliff.graders.grader import parse_all

GRADER = {"type": "string_check", "name": "g", "input": "{{ item.a }}", "reference": "x", "operation": "eq"}


def lines(rows: list[list[bool]]) -> list[GradedLine]:
    grade = {passed: [GradeGiven("g", float(passed), passed, "")] for passed in (True, False)}
    return [GradedLine(k, False, grade[passed]) for k, row in enumerate(rows, 1) for passed in row]


@pytest.mark.parametrize("passed", range(7))
def test_estimates_are_the_mean_over_all_draws_of_k_answers(passed: int) -> None:
    row = [k < passed for k in range(6)]
    found = passes_by_k([row])
    assert list(found.at) == [1, 2, 4, 6]
    for k in found.at:
        draws = list(combinations(row, k))
        assert found.at[k] == pytest.approx(sum(any(draw) for draw in draws) / len(draws))
        assert found.all[k] == pytest.approx(sum(all(draw) for draw in draws) / len(draws))


def test_rows_count_only_for_as_many_answers_as_they_have() -> None:
    found = passes_by_k([[True, False, False, False], [True, True], []])
    assert found.at == pytest.approx({1: (0.25 + 1) / 2, 2: (0.5 + 1) / 2, 4: 1.0})
    assert passes_by_k([[True], [False]]) == NONE
    assert passes_by_k([]) == NONE


def test_a_row_has_one_value_and_none_where_nothing_could_be_graded() -> None:
    assert mean_by_line([(1, 1.0), (1, 0.0), (2, None), (2, None), (3, None), (3, 1.0)]) == {1: 0.5, 2: None, 3: 1.0}


def test_many_answers_to_few_rows_do_not_narrow_the_interval_as_many_rows_would() -> None:
    graders = parse_all([GRADER], path="graders")
    few = results_of(graders, lines([[True] * 50, [False] * 50, [True] * 50, [False] * 50]))[0]
    many = results_of(graders, lines([[k % 2 == 0] for k in range(200)]))[0]
    assert (few.n, few.passed, few.mean) == (many.n, many.passed, many.mean) == (200, 100, 0.5)
    assert few.interval is not None
    assert many.interval is not None
    assert few.interval.high - few.interval.low > 2 * (many.interval.high - many.interval.low)


def test_runs_with_repeats_are_compared_row_by_row() -> None:
    numbers, left_out = compare_lines(
        "g", True, lines([[True, False], [False, False]]), lines([[True, True], [False, False]]), 0.95, 0
    )
    assert (numbers.n, numbers.wins, numbers.ties, left_out) == (2, 1, 1, [])
    assert numbers.mean_first == pytest.approx(0.25)
