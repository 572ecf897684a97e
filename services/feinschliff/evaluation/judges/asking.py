"""A judging grader that may be asked, for calibrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from feinschliff.evaluation.grading.grading import Grading
from feinschliff.evaluation.grading.outside import Waiting
from feinschliff.evaluation.judges.store import Calibration
from feinschliff.evaluation.judges.worker import Judgement
from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.grader import parse
from feinschliff.graders.protocol import Grader


@dataclass(frozen=True)
class GradingJudge:
    """Asks as a run of an eval of the project does; an outage is waited out."""

    project: str
    grader: Grader
    grading: Grading
    waiting: Waiting

    @classmethod
    def of(cls, calibration: Calibration, grading: Grading, waiting: Waiting) -> Self:
        return cls(calibration.parent, parse(calibration.grader, is_stored=True), grading, waiting)

    async def judge(self, item: Item, sample: Sample) -> Judgement:
        asked = await self.grading.asked(self.project, [self.grader], item, sample, waiting=self.waiting)
        grade = asked[self.grader.name]
        identity = grade.judgements[0].identity if grade.judgements else None
        return Judgement(grade.label, grade.value, grade.why, dict(identity) if identity else None)
