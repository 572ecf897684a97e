"""Is the last number of the answer the right one?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import ClassVar, Self

from feinschliff.graders.grade import Fault, Grade, Item, Sample, quoted, ungraded
from feinschliff.graders.spec import ANSWER, Spec, SpecReader
from feinschliff.graders.template import Template, Unresolved, unresolved

RELATIVE_TOLERANCE_DEFAULT = 1e-6
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-+\u2212])?[$€£]?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)?(?P<part>\.\d+)?(?P<power>[eE][-+]?\d{1,3})?"
    r"(?![\w])"
)
_DIGITS_MAX = 400


def numeric(
    answer: str,
    expected: str,
    *,
    relative_tolerance: float = RELATIVE_TOLERANCE_DEFAULT,
    absolute_tolerance: float = 0.0,
) -> Grade:
    """1.0 if the last number in `answer` equals `expected`; no number is 0.0; a bad `expected` is None.

    Numbers may have a sign, a currency before them, commas between thousands, a fraction after a point and a power of
    ten. Equal: apart by no more than the larger of `absolute_tolerance` and `relative_tolerance` of the reference.
    """
    wanted = number_of(expected)
    if wanted is None:
        return ungraded(Fault.REFERENCE, f"the reference {quoted(expected)} is no number")
    found = last_number(answer)
    if found is None:
        return Grade(0.0, f"{quoted(answer)} has no number")
    allowed = max(Decimal(absolute_tolerance), abs(wanted) * Decimal(relative_tolerance))
    is_right = abs(found - wanted) <= allowed
    return Grade(float(is_right), f"the last number is {found:g}, the right one {wanted:g}")


def number_of(text: str) -> Decimal | None:
    """The number that the whole text is, or None."""
    match = _NUMBER.fullmatch(text.strip())
    return _read(match) if match else None


def last_number(text: str) -> Decimal | None:
    """The last number of a text; digits within words are none."""
    found = [number for match in _NUMBER.finditer(text) if (number := _read(match)) is not None]
    return found[-1] if found else None


def _read(match: re.Match[str]) -> Decimal | None:
    if (match["whole"] is None and match["part"] is None) or len(match[0]) > _DIGITS_MAX:
        return None
    sign = "-" if match["sign"] in ("-", "\u2212") else ""
    digits = (match["whole"] or "0").replace(",", "") + (match["part"] or "") + (match["power"] or "")
    try:
        return Decimal(sign + digits)
    except InvalidOperation:
        return None


@dataclass(frozen=True)
class Numeric:
    """Grades 1.0 or 0.0; passed at 1.0."""

    type: ClassVar[str] = "numeric"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    input: Template
    reference: Template
    relative_tolerance: float
    absolute_tolerance: float

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "input", "reference", "relative_tolerance", "absolute_tolerance")
        return cls(
            name=reader.name(),
            input=reader.template("input", ANSWER),
            reference=reader.template("reference"),
            relative_tolerance=reader.fraction("relative_tolerance", RELATIVE_TOLERANCE_DEFAULT),
            absolute_tolerance=reader.number("absolute_tolerance", 0, 0),
        )

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "reference": self.reference.source,
            "relative_tolerance": self.relative_tolerance,
            "absolute_tolerance": self.absolute_tolerance,
        }

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            answer, expected = self.input.render(item, sample), self.reference.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        relative, absolute = self.relative_tolerance, self.absolute_tolerance
        return numeric(answer, expected, relative_tolerance=relative, absolute_tolerance=absolute)
