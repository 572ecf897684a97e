"""What gates count of graded rows: a row that the candidate leaves without a grade is a row it got wrong; all pure."""

from __future__ import annotations

from collections.abc import Sequence

from feinschliff.evaluation.resources import OVERALL, GradedLine, GradeGiven, GraderResult
from feinschliff.evaluation.statistics.intervals import SEED
from feinschliff.evaluation.statistics.paired import Comparison, compare
from feinschliff.evaluation.statistics.repeats import mean_by_line
from feinschliff.evaluation.statistics.summary import summarise
from feinschliff.graders.grade import Fault

ROWS_MIN = 10
"""Fewer rows than this decide no release."""
UNGRADED_SHARE_MAX = 0.05
"""Of the rows that a rule should see, at most this share may say nothing."""


def compare_strictly(
    grader: str, is_binary: bool, baseline: Sequence[GradedLine], candidate: Sequence[GradedLine], level: float
) -> Comparison:
    """As `compare_lines`, but what kept the candidate from a grade counts against it, and never for it.

    Of the baseline only answers that cannot be read count 0; a row that it has no grade of for another reason is no
    pair, since a gain over it would be nobody's.
    """
    sides = [
        mean_by_line((line.line, counted(grader, line, is_candidate)) for line in side)
        for side, is_candidate in ((baseline, False), (candidate, True))
    ]
    lines = sorted({*sides[0], *sides[1]})
    first, second = [sides[0].get(line) for line in lines], [sides[1].get(line, 0.0) for line in lines]
    is_repeated = any(len(seen) < len(side) for seen, side in zip(sides, (baseline, candidate), strict=True))
    keys = {line.line: line.key for line in (*candidate, *baseline)}
    is_binary = is_binary and not is_repeated
    return compare(first, second, is_binary=is_binary, alpha=1 - level, seed=SEED, keys=[keys[line] for line in lines])


def result_strictly(is_binary: bool, candidate: Sequence[GradedLine], seen: GraderResult) -> GraderResult:
    """The result with every row in its mean and interval, those without a grade as 0."""
    values = [counted(seen.grader, line, is_candidate=True) for line in candidate]
    summary = summarise(values, is_binary=is_binary, keys=[line.key for line in candidate])
    return seen._replace(n=len(values), mean=summary.mean, interval=summary.interval, clusters=summary.clusters)


def counted(grader: str, line: GradedLine, is_candidate: bool) -> float | None:
    """The value of an answer in a gate; None (of a baseline alone): nobody can say."""
    if line.is_errored or not line.grades:
        return 0.0 if is_candidate else None
    if grader != OVERALL:
        given = next((grade for grade in line.grades if grade.grader == grader), None)
        return _value(given, is_candidate)
    values = [_value(grade, is_candidate) for grade in line.grades]
    if any(value is not None and not grade.passed for value, grade in zip(values, line.grades, strict=True)):
        return 0.0
    return None if None in values else 1.0


def _value(grade: GradeGiven | None, is_candidate: bool) -> float | None:
    if grade is not None and grade.value is not None:
        return grade.value
    is_unreadable = grade is not None and grade.fault in ("", Fault.SAMPLE.value)
    return 0.0 if is_candidate or is_unreadable else None


def too_little(rows: int, ungraded: int) -> str:
    """Why the rows cannot decide a release; empty: they can."""
    if rows < ROWS_MIN:
        return f"Not enough evidence: {rows} rows count; a release needs at least {ROWS_MIN}."
    share = ungraded / (rows + ungraded)
    if share > UNGRADED_SHARE_MAX:
        return (
            f"Not enough evidence: {ungraded} of {rows + ungraded} rows say nothing; "
            f"at most {UNGRADED_SHARE_MAX:.0%} may."
        )
    return ""
