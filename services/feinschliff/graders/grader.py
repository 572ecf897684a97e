"""The shelf of graders: one protocol, one list, one way in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from feinschliff.graders.grade import Grade, Item, Sample, quoted
from feinschliff.graders.spec import Spec, SpecReader, refused
from feinschliff.graders.string_check import StringCheck
from feinschliff.graders.text_similarity import TextSimilarity
from feinschliff.kit.errors import FieldViolation, Unserved

GRADERS_MAX = 32


class Grader(Protocol):
    """Grades an answer. Pure: the same item and sample give the same grade, and nothing is called out to.

    A grade passes where its value is at least `pass_threshold`. `is_binary` says that values are 0 or 1 only, which
    decides the statistics: exact ones for proportions, resampling for means.
    """

    @property
    def type(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def is_binary(self) -> bool: ...

    @property
    def pass_threshold(self) -> float: ...

    def grade(self, item: Item, sample: Sample) -> Grade: ...

    def spec(self) -> Spec:
        """The whole definition with defaults filled in; `parse` of it gives an equal grader."""
        ...


GRADERS: Mapping[str, Callable[[SpecReader], Grader]] = {
    StringCheck.type: StringCheck.from_spec,
    TextSimilarity.type: TextSimilarity.from_spec,
}
UNSERVED = ("choice", "endpoint", "json_schema", "label_model", "multi", "numeric", "python", "score_model")


def parse(spec: Spec, *, path: str = "grader", nested: bool = False) -> Grader:
    """Make a grader of its JSON definition.

    Args:
        spec: `type` and the fields of that type, named as in OpenAI's graders.
        path: where the definition stands in the request; refusals point below it.
        nested: whether the request has a type's fields under the type's name, as gRPC does, or beside it.

    Raises:
        Invalid: GRADER_FIELD_MISSING, GRADER_FIELD_UNKNOWN, GRADER_FIELD_TYPE, GRADER_FIELD_RANGE,
            GRADER_FIELD_TOO_LONG, GRADER_NAME_INVALID, GRADER_OPERATION_UNKNOWN, GRADER_METRIC_UNKNOWN,
            GRADER_TYPE_UNKNOWN, TEMPLATE_SYNTAX or TEMPLATE_NAMESPACE.
        Unserved: GRADER_TYPE_UNSERVED or GRADER_METRIC_UNSERVED, for what is documented but not built.
    """
    kind = spec.get("type")
    if isinstance(kind, str) and kind in GRADERS:
        return GRADERS[kind](SpecReader(spec, path, nested=nested))
    field = f"{path}.type" if path else "type"
    if kind is None:
        raise refused("GRADER_FIELD_MISSING", field, "A grader needs 'type'.", name="type")
    if kind in UNSERVED:
        message = f"Graders of type {kind} are not served; {', '.join(GRADERS)} are."
        violation = FieldViolation(field, message, "GRADER_TYPE_UNSERVED")
        raise Unserved("GRADER_TYPE_UNSERVED", message, fields=[violation], field=field, type=kind)
    message = f"{quoted(str(kind))} is no type of grader; it must be one of {', '.join(GRADERS)}."
    raise refused("GRADER_TYPE_UNKNOWN", field, message, type=str(kind))


def parse_all(specs: Sequence[Spec], *, path: str, nested: bool = False) -> list[Grader]:
    """Make the graders of one eval, whose names must differ, since results are kept by name.

    Raises:
        Invalid: as `parse`; GRADERS_MISSING, GRADERS_TOO_MANY or GRADER_NAME_TAKEN.
        Unserved: as `parse`.
    """
    if not specs:
        raise refused("GRADERS_MISSING", path, "An eval needs at least one grader.")
    if len(specs) > GRADERS_MAX:
        message = f"An eval has at most {GRADERS_MAX} graders; these are {len(specs)}."
        raise refused("GRADERS_TOO_MANY", path, message, count=len(specs))
    graders = [parse(spec, path=f"{path}[{index}]", nested=nested) for index, spec in enumerate(specs)]
    seen: set[str] = set()
    for index, grader in enumerate(graders):
        if grader.name in seen:
            message = f"Two graders are named {quoted(grader.name)}; results are kept by name."
            raise refused("GRADER_NAME_TAKEN", f"{path}[{index}].name", message, name=grader.name)
        seen.add(grader.name)
    return graders
