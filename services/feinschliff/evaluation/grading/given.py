"""A grade as a run keeps it; pure."""

from __future__ import annotations

from feinschliff.evaluation.resources import GradeGiven
from feinschliff.graders.grade import Grade, Item, Sample
from feinschliff.graders.protocol import Grader, Pure

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
