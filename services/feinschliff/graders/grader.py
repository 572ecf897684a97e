"""The shelf of graders: one list, one way in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from feinschliff.graders import choice, multi, text_similarity
from feinschliff.graders.classification import Classification
from feinschliff.graders.endpoint import Endpoint
from feinschliff.graders.grade import quoted
from feinschliff.graders.json_path import JsonPath
from feinschliff.graders.json_schema import JsonSchema
from feinschliff.graders.judge import LabelModel, ScoreModel
from feinschliff.graders.length import Length
from feinschliff.graders.numeric import Numeric
from feinschliff.graders.pattern import Regex
from feinschliff.graders.protocol import Grader
from feinschliff.graders.python import Python
from feinschliff.graders.spec import Spec, SpecReader, refused
from feinschliff.graders.string_check import StringCheck
from feinschliff.graders.text_check import TextCheck
from feinschliff.graders.tool_calls import ToolCalls

GRADERS_MAX = 32

GRADERS: Mapping[str, Callable[[SpecReader], Grader]] = {
    StringCheck.type: StringCheck.from_spec,
    text_similarity.TextSimilarity.type: text_similarity.from_spec,
    LabelModel.type: LabelModel.from_spec,
    ScoreModel.type: ScoreModel.from_spec,
    multi.PureMulti.type: lambda reader: multi.from_spec(reader, parse),
    JsonSchema.type: JsonSchema.from_spec,
    choice.Choice.type: choice.from_spec,
    Numeric.type: Numeric.from_spec,
    Endpoint.type: Endpoint.from_spec,
    Python.type: Python.from_spec,
    Regex.type: Regex.from_spec,
    JsonPath.type: JsonPath.from_spec,
    ToolCalls.type: ToolCalls.from_spec,
    Length.type: Length.from_spec,
    TextCheck.type: TextCheck.from_spec,
    Classification.type: Classification.from_spec,
}


def parse(spec: Spec, *, path: str = "grader", nested: bool = False, depth: int = 0, is_stored: bool = False) -> Grader:
    """Make a grader of its JSON definition.

    Args:
        spec: `type` and the fields of that type, named as in OpenAI's graders.
        path: where the definition stands in the request; refusals point below it.
        nested: whether the request has a type's fields under the type's name, as gRPC does, or beside it.
        depth: how many graders it lies inside of.
        is_stored: whether it was accepted once and is read again; what is refused only since then is left to the rows.

    Raises:
        Invalid: GRADER_FIELD_MISSING, GRADER_FIELD_UNKNOWN, GRADER_FIELD_TYPE, GRADER_FIELD_RANGE,
            GRADER_FIELD_TOO_LONG, GRADER_NAME_INVALID, GRADER_OPERATION_UNKNOWN, GRADER_METRIC_UNKNOWN,
            GRADER_VALUE_UNKNOWN, GRADER_TYPE_UNKNOWN, GRADER_PATTERN_INVALID, GRADER_SCHEMA_INVALID,
            GRADER_PATH_INVALID, GRADER_FORMULA_INVALID, GRADER_NESTED_TOO_DEEP, GRADER_URL_INVALID,
            GRADER_HEADERS_REFUSED, TEMPLATE_SYNTAX or TEMPLATE_NAMESPACE.
        Unserved: GRADER_CONTENT_UNSERVED, for what is documented but not built.
    """
    kind = spec.get("type")
    if isinstance(kind, str) and kind in GRADERS:
        return GRADERS[kind](SpecReader(spec, path, nested=nested, depth=depth, is_stored=is_stored))
    field = f"{path}.type" if path else "type"
    if kind is None:
        raise refused("GRADER_FIELD_MISSING", field, "A grader needs 'type'.", name="type")
    message = f"{quoted(str(kind))} is no type of grader; it must be one of {', '.join(GRADERS)}."
    raise refused("GRADER_TYPE_UNKNOWN", field, message, type=str(kind))


def parse_all(specs: Sequence[Spec], *, path: str, nested: bool = False, is_stored: bool = False) -> list[Grader]:
    """Make the graders of one eval, whose names must differ, since results are kept by name. Arguments as `parse`.

    Raises:
        Invalid: as `parse`; GRADERS_MISSING, GRADERS_TOO_MANY or GRADER_NAME_TAKEN.
        Unserved: as `parse`.
    """
    if not specs:
        raise refused("GRADERS_MISSING", path, "An eval needs at least one grader.")
    if len(specs) > GRADERS_MAX:
        message = f"An eval has at most {GRADERS_MAX} graders; these are {len(specs)}."
        raise refused("GRADERS_TOO_MANY", path, message, count=len(specs))
    graders = [
        parse(spec, path=f"{path}[{index}]", nested=nested, is_stored=is_stored) for index, spec in enumerate(specs)
    ]
    seen: set[str] = set()
    for index, grader in enumerate(graders):
        if grader.name in seen:
            message = f"Two graders are named {quoted(grader.name)}; results are kept by name."
            raise refused("GRADER_NAME_TAKEN", f"{path}[{index}].name", message, name=grader.name)
        seen.add(grader.name)
    return graders
