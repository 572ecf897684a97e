"""What the stored items of a run say, grader by grader, and how two runs differ; all pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum

from feinschliff.evaluation.resources import OVERALL, GradedLine, GradeGiven, GraderResult, passes
from feinschliff.evaluation.statistics.paired import Comparison, compare
from feinschliff.evaluation.statistics.repeats import NONE, mean_by_line, passes_by_k
from feinschliff.evaluation.statistics.summary import summarise
from feinschliff.graders.protocol import Grader


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
    value, is_repeated = _value_of(grader), any(_is_repeated(side) for side in (first, second))
    keys = {line.line: line.key for line in (*second, *first)}
    values = [
        mean_by_line((line.line, value(line.grades)) for line in side if not line.is_errored)
        for side in (first, second)
    ]
    lines = sorted({line.line for line in (*first, *second)})
    left, right = ([side.get(line) for line in lines] for side in values)
    left_out = [line for line, a, b in zip(lines, left, right, strict=True) if a is None or b is None]
    is_binary = is_binary and not is_repeated
    rows = [keys[line] for line in lines]
    return compare(left, right, is_binary=is_binary, alpha=1 - level, seed=seed, keys=rows), left_out


def _result(name: str, is_binary: bool, errored: int, graded: Sequence[GradedLine]) -> GraderResult:
    """Answers to one row, and to rows that are equal, are no news of each other: the interval draws different rows."""
    value, passed = _value_of(name), _passed_by(name)
    values = [value(line.grades) for line in graded]
    given = [one for one in values if one is not None]
    summary = summarise(values, is_binary=is_binary, keys=[line.key for line in graded])
    passes_ = passes_by_k(_passes_of_rows(name, graded)) if _is_repeated(graded) else NONE
    return GraderResult(
        grader=name,
        n=len(given),
        ungradable=len(values) - len(given),
        errored=errored,
        passed=sum(passed(line.grades) for line in graded),
        mean=fsum(given) / len(given) if given else None,
        interval=summary.interval,
        pass_at=passes_.at,
        pass_all=passes_.all,
        clusters=summary.clusters,
    )


def _is_repeated(lines: Sequence[GradedLine]) -> bool:
    return len({line.line for line in lines}) < len(lines)


def _passes_of_rows(name: str, graded: Sequence[GradedLine]) -> list[list[bool]]:
    """Of each row, which of its answers that could be graded pass."""
    value, passed = _value_of(name), _passed_by(name)
    rows: dict[int, list[bool]] = {}
    for line in graded:
        if value(line.grades) is not None:
            rows.setdefault(line.line, []).append(passed(line.grades))
    return list(rows.values())


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
