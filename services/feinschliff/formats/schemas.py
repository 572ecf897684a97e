"""JSON schemas: the schemas inside one, and the order of properties, which objects of the API do not keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ORDER = "propertyOrdering"
"""Keyword that lists an object's properties in the order in which they are written."""

_FOREIGN = ("x-guidance",)  # would tell our engine how to read the schema
_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


class Inner(NamedTuple):
    """A schema right inside another one, and its path from there."""

    path: str
    schema: Mapping[str, Any]


def inner_schemas(schema: Mapping[str, Any]) -> Iterator[Inner]:
    for key, value in schema.items():
        found: list[tuple[str, Any]] = []
        if key in _OF_SCHEMAS and isinstance(value, Mapping):
            found = [(f"{key}.{name}", one) for name, one in value.items()]
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            found = [(f"{key}[{place}]", one) for place, one in enumerate(value)]
        elif key in _SCHEMAS:
            found = [(key, value)]
        yield from (Inner(path, one) for path, one in found if isinstance(one, Mapping))


def with_order(schema: Any) -> Any:
    """The schema with `propertyOrdering` wherever it names properties: those listed already, then the others."""
    if not isinstance(schema, Mapping):
        return schema
    found = _each(schema, with_order)
    if isinstance(properties := schema.get("properties"), Mapping):
        found[ORDER] = _names(_listed(schema, ORDER), list(properties))
    return found


def in_order(schema: Any) -> Any:
    """The schema with its properties as `propertyOrdering` lists them, else as `required` does; the others by name.

    The keyword is gone then, and so are options that would change how the schema is read.
    """
    if not isinstance(schema, Mapping):
        return schema
    found = _each({key: value for key, value in schema.items() if key not in (ORDER, *_FOREIGN)}, in_order)
    if isinstance(properties := found.get("properties"), Mapping):
        listed = _listed(schema, ORDER) or _listed(schema, "required")
        found["properties"] = {name: properties[name] for name in _names(listed, sorted(properties))}
    return found


def _each(schema: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The schema with every schema right inside it changed."""
    found = dict(schema)
    for key, value in schema.items():
        if key in _OF_SCHEMAS and isinstance(value, Mapping):
            found[key] = {name: change(one) for name, one in value.items()}
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            found[key] = [change(one) for one in value]
        elif key in _SCHEMAS:
            found[key] = change(value)
    return found


def _listed(schema: Mapping[str, Any], key: str) -> list[str]:
    value = schema.get(key)
    return [name for name in value if isinstance(name, str)] if isinstance(value, Sequence) else []


def _names(first: Sequence[str], names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*(name for name in first if name in names), *names]))
