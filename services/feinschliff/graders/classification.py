"""Does the answer name the right class; and over all rows accuracy, F1 and confusion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from feinschliff.graders.choice import read_choice, right_option
from feinschliff.graders.grade import Fault, Grade, Item, Sample, quoted, ungraded
from feinschliff.graders.spec import ANSWER, Spec, SpecReader
from feinschliff.graders.template import Template, Unresolved, unresolved

LABELS_MAX = 1000


@dataclass(frozen=True)
class Classification:
    """Grades 1.0 or 0.0; an answer that names no class, or several, is wrong: 0.0 with an empty label."""

    type: ClassVar[str] = "classification"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    input: Template
    reference: Template
    labels: tuple[str, ...]

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "input", "reference", "labels")
        return cls(
            name=reader.name(),
            input=reader.template("input", ANSWER),
            reference=reader.template("reference"),
            labels=reader.texts("labels", 2, LABELS_MAX),
        )

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "reference": self.reference.source,
            "labels": list(self.labels),
        }

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            answer, reference = self.input.render(item, sample), self.reference.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        right = right_option(reference, self.labels)
        if right is None:
            return ungraded(Fault.REFERENCE, f"the reference {quoted(reference)} is none of the labels")
        label, why = read_choice(answer, self.labels)
        if label is None:
            return Grade(0.0, f"{quoted(right)} is right; {why}", expected_label=right)
        told = f"{quoted(label)}, {quoted(right)} is right; {why}"
        return Grade(float(label == right), told, label=label, expected_label=right)


class LabelScore(NamedTuple):
    """How one class was met; None where a share has nothing to be a share of."""

    label: str
    n: int
    precision: float | None
    recall: float | None
    f1: float


class ClassificationReport(NamedTuple):
    """Over all rows; `confusion` counts (right, read), read empty where the answer named no class."""

    n: int
    accuracy: float | None
    macro_f1: float | None
    labels: Sequence[LabelScore]
    confusion: Mapping[tuple[str, str], int]


def report_of(pairs: Sequence[tuple[str, str]], labels: Sequence[str] = ()) -> ClassificationReport:
    """Accuracy, the mean F1 of the classes that occur as right or as read, and confusion.

    Args:
        pairs: the right class and the one read, row by row; an empty one was not read and is wrong.
        labels: the order of classes; others follow by name. A class that neither occurs counts in no mean.
    """
    confusion = Counter(pairs)
    right, read = Counter(pair[0] for pair in pairs), Counter(pair[1] for pair in pairs if pair[1])
    seen = {*right, *read}
    order = [*(label for label in labels if label in seen), *sorted(seen - set(labels))]
    scores = [_score(label, confusion[label, label], right[label], read[label]) for label in order]
    hits = sum(count for (wanted, found), count in confusion.items() if wanted == found)
    return ClassificationReport(
        n=len(pairs),
        accuracy=hits / len(pairs) if pairs else None,
        macro_f1=sum(score.f1 for score in scores) / len(scores) if scores else None,
        labels=scores,
        confusion=dict(confusion),
    )


def _score(label: str, hits: int, right: int, read: int) -> LabelScore:
    """F1 as 2 hits / (right + read), which needs neither share."""
    return LabelScore(
        label, right, hits / read if read else None, hits / right if right else None, 2 * hits / (right + read)
    )
