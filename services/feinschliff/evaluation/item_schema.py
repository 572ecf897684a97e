"""The JSON schema of an eval's rows: rows and the paths of templates are checked against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jsonschema
from jsonschema.validators import validator_for

from feinschliff.graders import template
from feinschliff.graders.grade import Item, quoted
from feinschliff.graders.spec import refused
from feinschliff.graders.template import Path
from feinschliff.kit.errors import Invalid

MADE = ("line", "prompt", "completion")
"""What rows have besides their own fields."""


class ItemSchema:
    """A checked schema; draft 2020-12 where it names none. References to elsewhere are never fetched."""

    def __init__(self, schema: Mapping[str, object]) -> None:
        kind = validator_for(dict(schema), default=jsonschema.Draft202012Validator)
        self._validator = kind(dict(schema))

    def fault(self, row: Item) -> str:
        """What the row violates first, with its place; empty: nothing."""
        error = next(iter(self._validator.iter_errors(dict(row))), None)
        if error is None:
            return ""
        return f"{error.json_path.replace('$', 'item', 1)}: {error.message}"[:1000]


def check_schema(schema: Mapping[str, object], field: str) -> None:
    """Raises Invalid ITEM_SCHEMA_INVALID; a schema that points elsewhere is refused too."""
    try:
        validator_for(dict(schema), default=jsonschema.Draft202012Validator).check_schema(dict(schema))
    except jsonschema.SchemaError as error:
        message = f"The schema is malformed at {error.json_path}: {error.message}"[:1000]
        raise refused("ITEM_SCHEMA_INVALID", field, message, place=error.json_path) from None
    for reference in _references(schema):
        if not reference.startswith("#"):
            message = f"{quoted(reference)} points out of the schema; only references inside it are followed."
            raise refused("ITEM_SCHEMA_INVALID", field, message, place=reference[:200])


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


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
