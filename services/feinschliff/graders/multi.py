"""A number computed from other graders by a formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from feinschliff.graders import formula
from feinschliff.graders.formula import Formula, FormulaError
from feinschliff.graders.grade import Fault, Grade, Item, Sample, quoted
from feinschliff.graders.outside import Outside
from feinschliff.graders.protocol import Grader, Pure, is_pure, put
from feinschliff.graders.spec import PASS_THRESHOLD_DEFAULT, Spec, SpecReader, refused
from feinschliff.graders.together import together
from feinschliff.kit.errors import Invalid

GRADERS_MAX = 32
DEPTH_MAX = 4
Parse = Callable[..., Grader]


@dataclass(frozen=True)
class _Multi:
    type: ClassVar[str] = "multi"
    is_binary: ClassVar[bool] = False

    name: str
    graders: Mapping[str, Grader] = field(hash=False)
    calculate_output: Formula
    pass_threshold: float

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "graders": {name: grader.spec() for name, grader in self.graders.items()},
            "calculate_output": self.calculate_output.source,
            "pass_threshold": self.pass_threshold,
        }

    def _computed(self, grades: Mapping[str, Grade]) -> Grade:
        """From 0 to 1; None where a grader that the formula needs could not grade, or the formula fails."""
        judgements = [one for grade in grades.values() for one in grade.judgements]
        parts = {name: grade.number for name, grade in grades.items() if grade.number is not None}
        missing = next((name for name in grades if name in self.calculate_output.names and name not in parts), None)
        if missing is not None:
            why = f"{missing} cannot be graded: {grades[missing].why}"
            return Grade(None, why, grades[missing].fault, parts=parts, judgements=judgements)
        try:
            raw = self.calculate_output.compute(parts)
        except FormulaError as error:
            why = f"the formula fails at character {error.position}: {error}"
            return Grade(None, why, Fault.FORMULA, parts=parts, judgements=judgements)
        value = min(max(raw, 0.0), 1.0)
        told = ", ".join(f"{name} {number:.3g}" for name, number in parts.items())
        why = f"{raw:.3f} of {told}, passes from {self.pass_threshold:g}"
        return Grade(value, why, raw=None if raw == value else raw, parts=parts, judgements=judgements)


@dataclass(frozen=True)
class PureMulti(_Multi):
    """Of graders that ask nobody."""

    def grade(self, item: Item, sample: Sample) -> Grade:
        graders = {name: grader for name, grader in self.graders.items() if isinstance(grader, Pure)}
        return self._computed({name: grader.grade(item, sample) for name, grader in graders.items()})


@dataclass(frozen=True)
class AskingMulti(_Multi):
    """Of graders some of which ask a model or a server; they ask at the same time."""

    async def ask(self, item: Item, sample: Sample, outside: Outside) -> Grade:
        grades = await together(put(grader, item, sample, outside) for grader in self.graders.values())
        return self._computed(dict(zip(self.graders, grades, strict=True)))


def from_spec(reader: SpecReader, parse: Parse) -> PureMulti | AskingMulti:
    """`parse` makes the graders inside, as `grader.parse` does."""
    reader.only("name", "graders", "calculate_output", "pass_threshold")
    if reader.depth >= DEPTH_MAX:
        message = f"Graders lie at most {DEPTH_MAX} levels deep in each other."
        raise refused("GRADER_NESTED_TOO_DEEP", reader.field("graders"), message, depth=reader.depth + 1)
    graders = _graders(reader, parse)
    source = reader.text("calculate_output")
    try:
        calculation = formula.parse(source, list(graders))
    except FormulaError as error:
        raise _malformed(reader.field("calculate_output"), error) from None
    make = PureMulti if all(map(is_pure, graders.values())) else AskingMulti
    return make(reader.name(), graders, calculation, reader.fraction("pass_threshold", PASS_THRESHOLD_DEFAULT))


def _graders(reader: SpecReader, parse: Parse) -> Mapping[str, Grader]:
    specs, field_ = reader.mapping("graders"), reader.field("graders")
    if "type" in specs and not isinstance(specs["type"], Mapping):
        message = "'graders' must be an object of graders by name, such as {\"close\": {...}}; this is a single grader."
        raise refused("GRADER_FIELD_TYPE", field_, message, name="graders")
    if not 1 <= len(specs) <= GRADERS_MAX:
        message = f"'graders' must have 1 to {GRADERS_MAX} entries; it has {len(specs)}."
        raise refused("GRADER_FIELD_RANGE", field_, message, name="graders", value=len(specs))
    made = {}
    for name, spec in specs.items():
        place = f"{field_}[{name}]" if reader.nested else f"{field_}.{name}"
        if not formula.NAME.fullmatch(name) or name in formula.FUNCTIONS:
            message = f"{quoted(name)} cannot stand in a formula; take letters, digits and _, and no function's name."
            raise refused("GRADER_NAME_INVALID", field_, message, name=name)
        if not isinstance(spec, Mapping):
            raise refused("GRADER_FIELD_TYPE", place, f"{quoted(name)} must be a grader.", name=name)
        made[name] = parse(
            {"name": name, **spec}, path=place, nested=reader.nested, depth=reader.depth + 1, is_stored=reader.is_stored
        )
    return made


def _malformed(field_: str, error: FormulaError) -> Invalid:
    message = f"The formula is wrong at character {error.position}: {error}."
    return refused("GRADER_FORMULA_INVALID", field_, message, position=error.position)
