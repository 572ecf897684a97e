"""The JSON schema of an eval's rows: rows and the paths of templates are checked against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import orjson

from feinschliff.graders import template
from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.grader import parse
from feinschliff.graders.json_schema import JsonSchema
from feinschliff.graders.spec import ANSWER, Spec, refused
from feinschliff.graders.template import Path
from feinschliff.kit.errors import Invalid

FAULT_CHARACTERS_MAX = 1000
MADE = ("line", "prompt", "completion")
"""What rows have besides their own fields."""


class ItemSchema:
    """A checked schema, draft 2020-12, read as the json_schema grader reads its own: in bounded steps, by RE2."""

    def __init__(self, schema: Mapping[str, object]) -> None:
        self._grader = JsonSchema("item", template.parse(ANSWER, field="input"), schema)

    def fault(self, row: Item) -> str:
        """What the row violates first, with its place; empty: nothing. Blocking."""
        try:
            grade = self._grader.grade({}, Sample(orjson.dumps(row).decode()))
        except orjson.JSONEncodeError as error:
            return f"item: {error}"[:FAULT_CHARACTERS_MAX]
        return "" if grade.value == 1.0 else grade.why.replace("$", "item", 1)[:FAULT_CHARACTERS_MAX]


def check_schema(schema: Mapping[str, object], field: str) -> None:
    """Raises Invalid ITEM_SCHEMA_INVALID, also where it points out of itself, at nothing, or is too much to follow."""
    try:
        parse(_spec(schema), path=field)
    except Invalid as error:
        raise refused("ITEM_SCHEMA_INVALID", field, error.message[:FAULT_CHARACTERS_MAX]) from None


def _spec(schema: Mapping[str, object]) -> Spec:
    return {"type": JsonSchema.type, "name": "item", "input": ANSWER, "schema": schema}


def check_paths(spec: object, schema: Mapping[str, object], field: str) -> None:
    """Raises Invalid TEMPLATE_PATH_UNKNOWN where a template names a field that the schema does not have."""
    for source in _texts(spec):
        for path in _paths(source):
            missing = _missing(path, schema)
            if missing:
                message = f"{path} is not in the item schema: there is no {missing}."
                raise refused("TEMPLATE_PATH_UNKNOWN", field, message, path=str(path)[:200])


def _missing(path: Path, schema: Mapping[str, object]) -> str:
    """The first step that an object of the schema surely does not have; empty: none."""
    here: object = schema
    for depth, step in enumerate(path.steps):
        if not isinstance(here, Mapping) or isinstance(step, int):
            return ""
        known = here.get("properties")
        is_open = here.get("additionalProperties", False) is not False or "patternProperties" in here
        if not isinstance(known, Mapping) or is_open:
            return ""
        if step not in known:
            return "" if depth == 0 and step in MADE else path.up_to(depth + 1)
        here = known[step]
    return ""


def _texts(spec: object) -> Iterator[str]:
    if isinstance(spec, str):
        if "{{" in spec:
            yield spec
    elif isinstance(spec, Mapping):
        for key, value in spec.items():
            if key != "source":  # a Python function is no template
                yield from _texts(value)
    elif isinstance(spec, list | tuple):
        for value in spec:
            yield from _texts(value)


def _paths(source: str) -> Iterator[Path]:
    try:
        parts = template.parse(source, field="template").parts
    except Invalid:
        return  # the template's own check says so, with its field
    for part in parts:
        if isinstance(part, Path) and part.namespace == "item":
            yield part
