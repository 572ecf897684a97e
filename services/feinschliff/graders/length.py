"""Is the text as long as it should be?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from feinschliff.graders.grade import Grade, Item, Sample
from feinschliff.graders.spec import ANSWER, Spec, SpecReader, refused
from feinschliff.graders.template import Template, Unresolved, unresolved

UNITS: Mapping[str, Callable[[str], int]] = {
    "characters": len,
    "words": lambda text: len(text.split()),
    "lines": lambda text: sum(bool(line.strip()) for line in text.splitlines()),
}


@dataclass(frozen=True)
class Length:
    """Grades 1.0 or 0.0; passed at 1.0."""

    type: ClassVar[str] = "length"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    input: Template
    unit: str
    min: int | None
    max: int | None

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "input", "unit", "min", "max")
        least, most = reader.count("min"), reader.count("max")
        if least is None and most is None:
            raise refused("GRADER_FIELD_MISSING", reader.field("max"), "A length needs 'min' or 'max'.", name="max")
        if least is not None and most is not None and most < least:
            message = f"'max' is {most} and below 'min', which is {least}."
            raise refused("GRADER_FIELD_RANGE", reader.field("max"), message, name="max", value=most)
        unit = reader.choice("unit", UNITS, default="characters")
        return cls(reader.name(), reader.template("input", ANSWER), unit, least, most)

    def spec(self) -> Spec:
        bounds = {"min": self.min, "max": self.max}
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "unit": self.unit,
            **{name: bound for name, bound in bounds.items() if bound is not None},
        }

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            text = self.input.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        count = UNITS[self.unit](text)
        if self.min is not None and count < self.min:
            return Grade(0.0, f"{count} {self.unit} are fewer than {self.min}")
        if self.max is not None and count > self.max:
            return Grade(0.0, f"{count} {self.unit} are more than {self.max}")
        return Grade(1.0, f"{count} {self.unit}")
