"""Does the answer equal, or contain, the expected text?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from feinschliff.graders.grade import Fault, Grade, Item, Sample, quoted, ungraded
from feinschliff.graders.spec import Spec, SpecReader
from feinschliff.graders.template import Template, Unresolved, unresolved


def eq(answer: str, reference: str) -> Grade:
    """1.0 where both are the same characters; case, blanks and line ends count."""
    if answer == reference:
        return Grade(1.0, f"equal to {quoted(reference)}")
    return Grade(0.0, f"{quoted(answer)} is not {quoted(reference)}")


def ne(answer: str, reference: str) -> Grade:
    """1.0 where `eq` gives 0.0, and the other way round."""
    return Grade(float(answer != reference), eq(answer, reference).why)


def like(answer: str, reference: str) -> Grade:
    """1.0 where the answer contains the reference, case-sensitively; an empty reference is None."""
    return _contains(answer, reference, answer, reference)


def ilike(answer: str, reference: str) -> Grade:
    """As `like`, whatever the case; Unicode case folding, so STRASSE matches Straße."""
    return _contains(answer, reference, answer.casefold(), reference.casefold())


OPERATIONS: Mapping[str, Callable[[str, str], Grade]] = {
    "eq": eq,
    "ne": ne,
    "like": like,
    "ilike": ilike,
    "contains": like,
}
ALIASES: Mapping[str, str] = {"neq": "ne"}


@dataclass(frozen=True)
class StringCheck:
    """Grades 1.0 or 0.0; passed at 1.0."""

    type: ClassVar[str] = "string_check"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    input: Template
    reference: Template
    operation: str

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "input", "reference", "operation")
        return cls(
            name=reader.name(),
            input=reader.template("input"),
            reference=reader.template("reference"),
            operation=reader.choice("operation", OPERATIONS, "GRADER_OPERATION_UNKNOWN", ALIASES),
        )

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "reference": self.reference.source,
            "operation": self.operation,
        }

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            answer, reference = self.input.render(item, sample), self.reference.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        return OPERATIONS[self.operation](answer, reference)


def _contains(answer: str, reference: str, haystack: str, needle: str) -> Grade:
    if not needle:
        return ungraded(Fault.REFERENCE, "the reference is empty, and every answer contains that")
    if needle in haystack:
        return Grade(1.0, f"contains {quoted(reference)}")
    return Grade(0.0, f"{quoted(answer)} does not contain {quoted(reference)}")
