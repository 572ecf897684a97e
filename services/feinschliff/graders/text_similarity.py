"""How alike are the answer and the expected text?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from rapidfuzz import fuzz

from feinschliff.graders.grade import Grade, Item, Sample
from feinschliff.graders.spec import Spec, SpecReader
from feinschliff.graders.template import Template, Unresolved, unresolved
from feinschliff.kit.errors import FieldViolation, Unserved


def fuzzy_match(answer: str, reference: str) -> float:
    """1 - d / (|a| + |b|), d being the insertions and deletions between both texts, in characters.

    rapidfuzz's `fuzz.ratio` over 100. Symmetric; case, blanks and punctuation count; two empty texts are 1.0.
    """
    return fuzz.ratio(answer, reference) / 100.0


METRICS: Mapping[str, Callable[[str, str], float]] = {"fuzzy_match": fuzzy_match}
UNSERVED = ("bleu", "cosine", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l")
PASS_THRESHOLD_DEFAULT = 0.5


@dataclass(frozen=True)
class TextSimilarity:
    """Grades from 0.0 to 1.0; passed from `pass_threshold` on."""

    type: ClassVar[str] = "text_similarity"
    is_binary: ClassVar[bool] = False

    name: str
    input: Template
    reference: Template
    evaluation_metric: str
    pass_threshold: float

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "input", "reference", "evaluation_metric", "pass_threshold")
        return cls(
            name=reader.name(),
            input=reader.template("input"),
            reference=reader.template("reference"),
            evaluation_metric=_metric(reader),
            pass_threshold=reader.fraction("pass_threshold", PASS_THRESHOLD_DEFAULT),
        )

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "reference": self.reference.source,
            "evaluation_metric": self.evaluation_metric,
            "pass_threshold": self.pass_threshold,
        }

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            answer, reference = self.input.render(item, sample), self.reference.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        value = METRICS[self.evaluation_metric](answer, reference)
        return Grade(value, f"{self.evaluation_metric} {value:.3f}, passes from {self.pass_threshold:g}")


def _metric(reader: SpecReader) -> str:
    metric = reader.choice("evaluation_metric", (*METRICS, *UNSERVED), "GRADER_METRIC_UNKNOWN", {})
    if metric in METRICS:
        return metric
    message = f"The metric {metric} is not served; {', '.join(METRICS)} is."
    violation = FieldViolation(reader.field("evaluation_metric"), message, "GRADER_METRIC_UNSERVED")
    raise Unserved("GRADER_METRIC_UNSERVED", message, fields=[violation], field=violation.field, metric=metric)
