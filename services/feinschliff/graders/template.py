"""Texts with `{{ item.path[0].field }}` and `{{ sample.field }}` in them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from feinschliff.graders.grade import SAMPLE_FIELDS, Fault, Grade, Item, Sample, ungraded
from feinschliff.kit.errors import FieldViolation, Invalid

Namespace = Literal["item", "sample"]

_NAME = re.compile(r"[^\W\d][\w-]*")
_INDEX = re.compile(r"\[\s*(\d{1,9})\s*\]")
_BLANK = re.compile(r"\s*")


class Unresolved(Exception):
    """A path that this row or answer does not have; the grade is then None, with this as its reason."""


@dataclass(frozen=True)
class Path:
    """`item.a.b[0]`: a namespace and the steps below it, field names and list indexes."""

    namespace: Namespace
    steps: tuple[str | int, ...]

    def __str__(self) -> str:
        return self.up_to(len(self.steps))

    def up_to(self, depth: int) -> str:
        return self.namespace + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.steps[:depth])

    def value(self, namespaces: Mapping[str, object]) -> object:
        """What lies at the path.

        Raises:
            Unresolved: a field or index on the way is not there; the message names the first such step.
        """
        here = namespaces[self.namespace]
        for depth, step in enumerate(self.steps):
            here = _step(here, step, self, depth)
        return here


@dataclass(frozen=True)
class Template:
    """A checked template; `source` is what the user wrote."""

    source: str
    parts: tuple[str | Path, ...]

    def render(self, item: Item, sample: Sample | None = None) -> str:
        """The text with every path filled in; a value that is not a string is written as JSON.

        Raises:
            Unresolved: a path is not in this item or sample.
        """
        namespaces: dict[str, object] = {"item": item}
        if sample is not None:
            namespaces["sample"] = sample.values
        return "".join(part if isinstance(part, str) else text_of(part.value(namespaces)) for part in self.parts)


def parse(source: str, *, field: str, namespaces: Sequence[Namespace] = ("item", "sample")) -> Template:
    """Check a template once, when it is defined.

    Args:
        source: the text; what is not inside `{{ }}` stays as it is.
        field: where the text stands in the request; refusals point there.
        namespaces: which of `item` and `sample` may be named here.

    Raises:
        Invalid: TEMPLATE_SYNTAX or TEMPLATE_NAMESPACE, with `position`, the 1-based character of the fault.
    """
    parts: list[str | Path] = []
    at = 0
    while (start := source.find("{{", at)) >= 0:
        if source[at:start]:
            parts.append(source[at:start])
        path, at = _placeholder(source, start + 2, field, namespaces)
        parts.append(path)
    if source[at:]:
        parts.append(source[at:])
    return Template(source, tuple(parts))


def parse_path(source: str, *, field: str, namespaces: Sequence[Namespace] = ("item",)) -> Path:
    """Check a bare path such as `item.prompt`; the same refusals as `parse`."""
    path, end = _path(source, _skip(source, 0), field, namespaces)
    if _skip(source, end) != len(source):
        raise _syntax(source, end, field, "nothing may follow the path")
    return path


def unresolved(error: Unresolved) -> Grade:
    return ungraded(Fault.TEMPLATE, str(error))


def _placeholder(source: str, at: int, field: str, namespaces: Sequence[Namespace]) -> tuple[Path, int]:
    path, end = _path(source, _skip(source, at), field, namespaces)
    end = _skip(source, end)
    if not source.startswith("}}", end):
        raise _syntax(source, end, field, "expected '.field', '[index]' or '}}'")
    return path, end + 2


def _path(source: str, at: int, field: str, namespaces: Sequence[Namespace]) -> tuple[Path, int]:
    start = at
    name = _NAME.match(source, at)
    if name is None:
        raise _syntax(source, at, field, f"expected a path that starts with {' or '.join(namespaces)}")
    namespace = next((n for n in namespaces if n == name.group()), None)
    if namespace is None:
        raise _foreign(name.group(), start, field, namespaces)
    at = name.end()
    steps: list[str | int] = []
    while at < len(source) and source[at] in ".[":
        step, at = _parse_step(source, at, field)
        steps.append(step)
    if namespace == "sample" and (not steps or steps[0] not in SAMPLE_FIELDS):
        raise _syntax(source, start, field, f"sample has the fields {', '.join(SAMPLE_FIELDS)}")
    return Path(namespace, tuple(steps)), at


def _parse_step(source: str, at: int, field: str) -> tuple[str | int, int]:
    if source[at] == "[":
        index = _INDEX.match(source, at)
        if index is None:
            raise _syntax(source, at, field, "expected an index from 0, as in [0]")
        return int(index.group(1)), index.end()
    name = _NAME.match(source, at + 1)
    if name is None:
        raise _syntax(source, at + 1, field, "expected a field name after '.'")
    return name.group(), name.end()


def _step(here: object, step: str | int, path: Path, depth: int) -> object:
    if isinstance(here, str) and _descends_into_arguments(path, depth):
        here = _parsed(here, path, depth)
    if isinstance(step, int):
        if not isinstance(here, list | tuple):
            raise Unresolved(f"{path} is not there: {path.up_to(depth)} is {_kind(here)}, not a list")
        if step >= len(here):
            raise Unresolved(f"{path} is not there: {path.up_to(depth)} has {len(here)} elements")
        return here[step]
    if not isinstance(here, Mapping):
        raise Unresolved(f"{path} is not there: {path.up_to(depth)} is {_kind(here)}, not an object")
    if step not in here:
        raise Unresolved(f"{path} is not there: {path.up_to(depth)} has no field {step}")
    return here[step]


def _descends_into_arguments(path: Path, depth: int) -> bool:
    """A tool call's `arguments` are JSON in a string; a path may go on as if they were parsed."""
    return path.namespace == "sample" and path.steps[0] == "output_tools" and path.steps[depth - 1] == "arguments"


def _parsed(text: str, path: Path, depth: int) -> object:
    try:
        parsed: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Unresolved(f"{path} is not there: {path.up_to(depth)} is not JSON") from None
    return parsed


def text_of(value: object) -> str:
    """A value as templates write it: text as it is, everything else as JSON; raises Unresolved if it cannot be."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise Unresolved("the value is nested too deeply to be written as JSON") from None


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", tuple: "a list"}
    return kinds.get(type(value), "an object")


def _skip(source: str, at: int) -> int:
    blank = _BLANK.match(source, at)
    return blank.end() if blank else at


def _syntax(source: str, at: int, field: str, expected: str) -> Invalid:
    found = f"found {source[at]!r}" if at < len(source) else "found the end of the text"
    message = f"The template in {field} is malformed at character {at + 1}: {expected}, {found}."
    return Invalid(
        "TEMPLATE_SYNTAX",
        message,
        fields=[FieldViolation(field, message, "TEMPLATE_SYNTAX")],
        advice=["Write {{ item.field }}, {{ item.list[0].field }} or {{ sample.output_text }}."],
        field=field,
        position=at + 1,
    )


def _foreign(name: str, at: int, field: str, namespaces: Sequence[Namespace]) -> Invalid:
    allowed = " and ".join(namespaces)
    message = f"The template in {field} names {name!r} at character {at + 1}; only {allowed} can be named here."
    return Invalid(
        "TEMPLATE_NAMESPACE",
        message,
        fields=[FieldViolation(field, message, "TEMPLATE_NAMESPACE")],
        field=field,
        position=at + 1,
        namespace=name,
        allowed=allowed,
    )
