"""A judging grader that may be asked, for calibrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from feinschliff.evaluation.calibration_worker import Judgement
from feinschliff.evaluation.grading import Grading
from feinschliff.evaluation.outside import Waiting
from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.grader import parse
from feinschliff.graders.protocol import Grader
from feinschliff.graders.spec import Spec


@dataclass(frozen=True)
class GradingJudge:
    """Asks as a run of an eval does; an outage is waited out."""

    grader: Grader
    grading: Grading
    waiting: Waiting

    @classmethod
    def of(cls, spec: Spec, grading: Grading, waiting: Waiting) -> Self:
        return cls(parse(spec), grading, waiting)

    async def judge(self, item: Item, sample: Sample) -> Judgement:
        asked = await self.grading.asked([self.grader], item, sample, waiting=self.waiting)
        grade = asked[self.grader.name]
        identity = grade.judgements[0].identity if grade.judgements else None
        return Judgement(grade.label, grade.value, grade.why, dict(identity) if identity else None)
