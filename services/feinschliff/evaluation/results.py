"""What the stored items of a run say, grader by grader, and how two runs differ; all pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feinschliff.evaluation.resources import GradedLine, GradeGiven, GraderResult, passes
from feinschliff.evaluation.statistics import Comparison, compare, summarise
from feinschliff.graders.grade import Grade, Item, Sample
from feinschliff.graders.protocol import Grader, Pure

OVERALL = "overall"
WHY_CHARACTERS_MAX = 4096


def give_grade(grader: Pure, item: Item, sample: Sample) -> GradeGiven:
    """The grade with the grader's own word on whether it passes."""
    return given(grader, grader.grade(item, sample))


def given(grader: Grader, grade: Grade) -> GradeGiven:
    """The grade as it is kept."""
    value = grade.value
    return GradeGiven(
        grader=grader.name,
        value=value,
        passed=value is not None and value >= grader.pass_threshold,
        why=grade.why[:WHY_CHARACTERS_MAX],
        fault="" if grade.fault is None else grade.fault.value,
        raw=grade.raw,
        label=grade.label,
        expected_label=grade.expected_label,
        parts=dict(grade.parts),
        judgements=tuple(grade.judgements),
    )


def results_of(graders: Sequence[Grader], lines: Sequence[GradedLine]) -> list[GraderResult]:
    """One result per grader, in the eval's order, and last `overall`: an item counts 1 where it passes them all."""
    errored = sum(line.is_errored for line in lines)
    graded = [line for line in lines if not line.is_errored]
    made = [_result(grader.name, grader.is_binary, errored, graded) for grader in graders]
    return [*made, _result(OVERALL, True, errored, graded)]


def compare_lines(
    grader: str, is_binary: bool, first: Sequence[GradedLine], second: Sequence[GradedLine], level: float, seed: int
) -> tuple[Comparison, list[int]]:
    """The comparison over lines that both graded, and the lines that it leaves out."""
    value = _value_of(grader)
    values = [{line.line: value(line.grades) for line in side if not line.is_errored} for side in (first, second)]
    lines = sorted({line.line for line in (*first, *second)})
    left, right = ([side.get(line) for line in lines] for side in values)
    left_out = [line for line, a, b in zip(lines, left, right, strict=True) if a is None or b is None]
    return compare(left, right, is_binary=is_binary, alpha=1 - level, seed=seed), left_out


def _result(name: str, is_binary: bool, errored: int, graded: Sequence[GradedLine]) -> GraderResult:
    value, passed = _value_of(name), _passed_by(name)
    summary = summarise([value(line.grades) for line in graded], is_binary=is_binary)
    return GraderResult(
        grader=name,
        n=summary.n,
        ungradable=summary.ungradable,
        errored=errored,
        passed=sum(passed(line.grades) for line in graded),
        mean=summary.mean,
        interval=summary.interval,
    )


def _value_of(name: str) -> Callable[[Sequence[GradeGiven]], float | None]:
    if name == OVERALL:
        return _overall
    return lambda grades: next((grade.value for grade in grades if grade.grader == name), None)


def _passed_by(name: str) -> Callable[[Sequence[GradeGiven]], bool]:
    if name == OVERALL:
        return lambda grades: passes(grades) is True
    return lambda grades: any(grade.passed for grade in grades if grade.grader == name)


def _overall(grades: Sequence[GradeGiven]) -> float | None:
    passed = passes(grades)
    return None if passed is None else float(passed)
