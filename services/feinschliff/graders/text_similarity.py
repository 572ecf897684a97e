"""How alike are the answer and the expected text?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import ClassVar

from rapidfuzz import fuzz

from feinschliff.graders.grade import Fault, Grade, Item, Sample, ungraded
from feinschliff.graders.outside import CannotAsk, Outside
from feinschliff.graders.similarity.meteor import meteor
from feinschliff.graders.similarity.rouge import rouge_l, rouge_n
from feinschliff.graders.similarity.translation import bleu, gleu
from feinschliff.graders.spec import PASS_THRESHOLD_DEFAULT, Spec, SpecReader, refused
from feinschliff.graders.template import Template, Unresolved, unresolved

MODEL_CHARACTERS_MAX = 500


def fuzzy_match(answer: str, reference: str) -> float:
    """1 - d / (|a| + |b|), d being the insertions and deletions between both texts, in characters.

    rapidfuzz's `fuzz.ratio` over 100. Symmetric; case, blanks and punctuation count; two empty texts are 1.0.
    """
    return fuzz.ratio(answer, reference) / 100.0


METRICS: Mapping[str, Callable[[str, str], float | None]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    **{f"rouge_{n}": partial(rouge_n, n=n) for n in range(1, 6)},
    "rouge_l": rouge_l,
}
"""None: the reference has nothing that the metric could count."""
COSINE = "cosine"


@dataclass(frozen=True)
class TextSimilarity:
    """Grades from 0.0 to 1.0 by the texts alone; passed from `pass_threshold` on."""

    type: ClassVar[str] = "text_similarity"
    is_binary: ClassVar[bool] = False

    name: str
    input: Template
    reference: Template
    evaluation_metric: str
    pass_threshold: float

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
        if value is None:
            return ungraded(Fault.REFERENCE, f"the reference has nothing that {self.evaluation_metric} could count")
        return Grade(value, f"{self.evaluation_metric} {value:.3f}, passes from {self.pass_threshold:g}")


@dataclass(frozen=True)
class Cosine:
    """Grades by the angle between two embeddings; what points away from each other is 0.0."""

    type: ClassVar[str] = "text_similarity"
    is_binary: ClassVar[bool] = False
    evaluation_metric: ClassVar[str] = COSINE

    name: str
    input: Template
    reference: Template
    pass_threshold: float
    model: str

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "reference": self.reference.source,
            "evaluation_metric": COSINE,
            "pass_threshold": self.pass_threshold,
            **({"model": self.model} if self.model else {}),
        }

    async def ask(self, item: Item, sample: Sample, outside: Outside) -> Grade:
        try:
            texts = [self.input.render(item, sample), self.reference.render(item, sample)]
        except Unresolved as error:
            return unresolved(error)
        if not texts[1].strip():
            return ungraded(Fault.REFERENCE, "the reference is empty")
        if not texts[0].strip():
            return Grade(0.0, "the answer is empty")
        try:
            answer, reference = await outside.embed(self.model, texts)
        except CannotAsk as error:
            return ungraded(error.fault, str(error))
        cosine = cosine_of(answer, reference)
        if cosine is None:
            return ungraded(Fault.MODEL, "the model gave a vector without a direction")
        value = min(max(cosine, 0.0), 1.0)
        return Grade(value, f"cosine {cosine:.3f}, passes from {self.pass_threshold:g}", raw=cosine)


def cosine_of(first: Sequence[float], second: Sequence[float]) -> float | None:
    """From -1 to 1; None where a vector is zero, not finite, or both differ in length."""
    if len(first) != len(second):
        return None
    lengths = math.hypot(*first) * math.hypot(*second)
    dot = sum(map(mul, first, second))
    return dot / lengths if lengths > 0 and math.isfinite(lengths) else None


def from_spec(reader: SpecReader) -> TextSimilarity | Cosine:
    reader.only("name", "input", "reference", "evaluation_metric", "pass_threshold", "model")
    metric = reader.choice("evaluation_metric", (*METRICS, COSINE), "GRADER_METRIC_UNKNOWN")
    name, threshold = reader.name(), reader.fraction("pass_threshold", PASS_THRESHOLD_DEFAULT)
    answer, reference = reader.template("input"), reader.template("reference")
    if metric == COSINE:
        model = reader.text("model", "", characters_max=MODEL_CHARACTERS_MAX)
        return Cosine(name, answer, reference, threshold, model)
    if reader.has("model"):
        message = f"Only {COSINE} asks a model; leave 'model' out."
        raise refused("GRADER_FIELD_UNKNOWN", reader.field("model"), message, name="model")
    return TextSimilarity(name, answer, reference, metric, threshold)
