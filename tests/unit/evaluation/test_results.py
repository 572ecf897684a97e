"""Results and comparisons follow from the stored items, whatever their order."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from feinschliff.evaluation.resources import OVERALL, GradedLine, GradeGiven, GraderResult, passes
from feinschliff.evaluation.runs.item_store import judged_by, summed
from feinschliff.evaluation.runs.results import compare_lines, results_of
from feinschliff.evaluation.statistics.paired import Verdict
from feinschliff.graders.grade import Judgement
from feinschliff.graders.grader import parse

CHECK = {"input": "{{sample.output_text}}", "reference": "{{item.completion}}"}
EXACT = parse({"type": "string_check", "name": "exact", "operation": "eq", **CHECK})
NEAR = parse({"type": "text_similarity", "name": "near", "evaluation_metric": "fuzzy_match", **CHECK})

values = st.one_of(st.none(), st.floats(0, 1))
exacts = st.one_of(st.none(), st.sampled_from([0.0, 1.0]))


def line(number: int, exact: float | None, near: float | None = 1.0, *, is_errored: bool = False) -> GradedLine:
    if is_errored:
        return GradedLine(number, True, ())
    grades = [
        GradeGiven("exact", exact, exact == 1.0, ""),
        GradeGiven("near", near, near is not None and near >= 0.5, ""),
    ]
    return GradedLine(number, False, grades)


def by_name(lines: list[GradedLine]) -> dict[str, GraderResult]:
    return {result.grader: result for result in results_of([EXACT, NEAR], lines)}


def test_errored_and_ungradable_items_are_counted_apart_and_are_no_zeros() -> None:
    lines = [line(1, 1.0), line(2, None), line(3, 0.0, 0.4), line(4, None, None), line(5, None, is_errored=True)]
    results = by_name(lines)
    assert list(results) == ["exact", "near", OVERALL]
    exact, near, overall = results.values()
    assert (exact.n, exact.ungradable, exact.errored, exact.passed, exact.mean) == (2, 2, 1, 1, 0.5)
    assert (near.n, near.ungradable, near.errored, near.passed) == (3, 1, 1, 2)
    assert (overall.n, overall.ungradable, overall.errored, overall.passed, overall.mean) == (3, 1, 1, 2, 2 / 3)


def test_an_item_passes_where_all_that_can_grade_it_pass() -> None:
    def grade(value: float | None, passed: bool) -> GradeGiven:
        return GradeGiven("g", value, passed, "")

    assert passes([grade(1.0, True), grade(0.9, True)]) is True
    assert passes([grade(1.0, True), grade(0.1, False)]) is False
    assert passes([grade(1.0, True), grade(None, False)]) is True
    assert passes([grade(None, False)]) is None
    assert passes([]) is None


@given(st.lists(st.tuples(exacts, values, st.booleans()), max_size=40), st.randoms())
def test_results_do_not_depend_on_the_order_in_which_items_were_done(
    graded: list[tuple[float | None, float | None, bool]], shuffle: random.Random
) -> None:
    lines = [line(k, exact, near, is_errored=errored) for k, (exact, near, errored) in enumerate(graded)]
    results = by_name(lines)
    shuffle.shuffle(lines)
    again = by_name(lines)
    for name in ("exact", OVERALL):
        assert again[name] == results[name]
    for result in results.values():
        assert result.n + result.ungradable + result.errored == len(graded)
        assert GraderResult.from_json(result.to_json()) == result


def test_runs_are_paired_by_line_and_the_rest_is_named() -> None:
    first = [line(1, 0.0), line(2, 0.0), line(3, None), line(4, 1.0)]
    second = [line(2, 1.0), line(1, 1.0), line(3, 1.0), line(5, 1.0), line(4, 1.0, is_errored=True)]
    numbers, left_out = compare_lines("exact", True, first, second, 0.95, 0)
    assert (numbers.n, numbers.wins, numbers.losses) == (2, 2, 0)
    assert left_out == [3, 4, 5]
    assert numbers.verdict is Verdict.NOT_ENOUGH_EVIDENCE


def test_tokens_of_judges_are_counted_by_model() -> None:
    said = [Judgement("a", "", (), "", prompt_tokens=10, completion_tokens=2), Judgement("b", "", (), "")]
    once = judged_by([*said, said[0]])
    assert once == {"a": [20, 4], "b": [0, 0]}
    assert summed(once, {"b": [1, 1], "c": [3, 0]}) == {"a": [20, 4], "b": [1, 1], "c": [3, 0]}
    assert judged_by([]) == {}
