"""Whether every reference of a JSON schema points at a schema; pure, and nothing outside of it is ever read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from feinschliff.graders.grade import quoted

KEYWORDS = ("$ref", "$dynamicRef")
_ONE = ("additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")


class Dangling(NamedTuple):
    """A reference that no grade can follow; `pointer` is where it stands, as a JSON pointer into the schema."""

    pointer: str
    reference: str
    why: str

    def __str__(self) -> str:
        return f"{quoted(self.reference)} at {self.pointer[:200]} {self.why}"


class _Place(NamedTuple):
    """A schema inside the schema; `pointer` leads to it, `resolver` knows what its references are relative to."""

    schema: object
    resolver: Any
    pointer: str


def first_dangling(schema: Mapping[str, object]) -> Dangling | None:
    """The first reference that points at nothing, or at what is no schema; None: all can be followed.

    Goes where a validator goes: into keywords that hold schemas and behind references, not into `const`, `enum` and
    the like, where `$ref` is data.
    """
    root = DRAFT202012.create_resource(schema)
    seen: set[int] = set()
    places = list(_inside(_Place(schema, Registry().resolver_with_root(root), ""), seen))
    for place in places:  # grows by what references lead to
        for keyword in KEYWORDS:
            reference = place.schema.get(keyword) if isinstance(place.schema, Mapping) else None
            if not isinstance(reference, str):
                continue
            pointer = f"{place.pointer}/{keyword}"
            target, why = _target(place.resolver, reference)
            if target is None:
                return Dangling(pointer, reference, why)
            places.extend(_inside(target._replace(pointer=pointer), seen))
    return None


def _inside(top: _Place, seen: set[int]) -> Iterator[_Place]:
    """All schemas in `top` that nobody saw yet, itself first."""
    waiting = [top]
    while waiting:
        place = waiting.pop()
        if id(place.schema) in seen or not isinstance(place.schema, Mapping):
            continue
        seen.add(id(place.schema))
        resolver = place.resolver.in_subresource(DRAFT202012.create_resource(place.schema))
        here = place._replace(resolver=resolver)
        yield here
        waiting.extend(reversed(list(_parts(here))))


def _parts(place: _Place) -> Iterator[_Place]:
    schema = place.schema
    for name, value in schema.items() if isinstance(schema, Mapping) else ():
        pointer = f"{place.pointer}/{name}"
        if name in _ONE:
            yield place._replace(schema=value, pointer=pointer)
        elif name in _LISTS and isinstance(value, list):
            for index, one in enumerate(value):
                yield place._replace(schema=one, pointer=f"{pointer}/{index}")
        elif name in _NAMED and isinstance(value, Mapping):
            for key, one in value.items():
                yield place._replace(schema=one, pointer=f"{pointer}/{_escaped(key)}")


def _target(resolver: Any, reference: str) -> tuple[_Place | None, str]:
    """What the reference leads to, or why to nothing that a value can be checked by."""
    try:
        found = resolver.lookup(reference)
    except (Unresolvable, LookupError, TypeError, ValueError, AttributeError):  # a pointer may go through any JSON
        return None, "points at nothing in the schema"
    if not isinstance(found.contents, Mapping | bool):
        return None, "points at what is no schema"
    try:
        Draft202012Validator.check_schema(found.contents)
    except SchemaError as error:
        return None, f"points at what is no schema: {quoted(error.message)}"
    return _Place(found.contents, found.resolver, ""), ""


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
