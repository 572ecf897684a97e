"""Is the value at a path inside JSON the right one?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, NamedTuple, Self

import orjson

from feinschliff.graders.grade import Fault, Grade, Item, Sample, quoted, ungraded
from feinschliff.graders.spec import ANSWER, TEXT_CHARACTERS_MAX, Spec, SpecReader, refused
from feinschliff.graders.template import Template, Unresolved, text_of, unresolved
from feinschliff.kit.errors import Invalid

VALUES_MAX = 10_000
VISITED_MAX = 1_000_000
_NAME = re.compile(r"[^\W\d][\w]*")
_INDEX = re.compile(r"-?(?:0|[1-9]\d{0,8})")
_SLICE = re.compile(r"\s*(-?\d{1,9})?\s*:\s*(-?\d{1,9})?\s*(?::\s*(-?\d{1,9})?)?\s*")
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.S)
_BLANK = re.compile(r"\s*")


class _All(NamedTuple):
    """`*`"""


Selector = str | int | slice | _All


class Segment(NamedTuple):
    """Selectors side by side; `deep`: of the value and of all inside it."""

    selectors: tuple[Selector, ...]
    deep: bool


class PathError(ValueError):
    """What is wrong with a path, and at which of its characters, from 1."""

    def __init__(self, position: int, expected: str) -> None:
        super().__init__(expected)
        self.position = position


def parse_path(source: str) -> tuple[Segment, ...]:
    """A JSONPath as in RFC 9535: names, indexes, `*`, slices and lists of them, `..`; no filters.

    Raises:
        PathError
    """
    at = _skip(source, 0)
    if not source.startswith("$", at):
        raise PathError(at + 1, "expected '$', the whole value")
    at += 1
    segments = []
    while (at := _skip(source, at)) < len(source):
        segment, at = _segment(source, at)
        segments.append(segment)
    return tuple(segments)


def _segment(source: str, at: int) -> tuple[Segment, int]:
    deep = source.startswith("..", at)
    begin = at + 2 if deep else at
    if source.startswith("[", begin):
        selectors, end = _brackets(source, begin + 1)
        return Segment(selectors, deep), end
    if not deep:
        if source[at] != ".":
            raise PathError(at + 1, "expected '.name' or '[...]'")
        begin = at + 1
    if source.startswith("*", begin):
        return Segment((_All(),), deep), begin + 1
    name = _NAME.match(source, begin)
    if name is None:
        raise PathError(begin + 1, "expected a name or '*'")
    return Segment((name.group(),), deep), name.end()


def _brackets(source: str, at: int) -> tuple[tuple[Selector, ...], int]:
    selectors = []
    while True:
        at = _skip(source, at)
        selector, at = _selector(source, at)
        selectors.append(selector)
        at = _skip(source, at)
        if source.startswith("]", at):
            return tuple(selectors), at + 1
        if not source.startswith(",", at):
            raise PathError(at + 1, "expected ',' or ']'")
        at += 1


def _selector(source: str, at: int) -> tuple[Selector, int]:
    if source.startswith("*", at):
        return _All(), at + 1
    if source.startswith("?", at):
        raise PathError(at + 1, "filters are not served; name the value by its place")
    text = _TEXT.match(source, at)
    if text is not None:
        return _unquoted(text.group(), at), text.end()
    part = _SLICE.match(source, at)
    if part is not None:
        start, stop, step = (None if one is None else int(one) for one in part.groups())
        if step == 0:
            raise PathError(at + 1, "a step of 0 leads nowhere")
        return slice(start, stop, step), part.end()
    index = _INDEX.match(source, at)
    if index is None:
        raise PathError(at + 1, "expected a quoted name, an index, a slice or '*'")
    return int(index.group()), index.end()


def _unquoted(text: str, at: int) -> str:
    inner = text[1:-1]
    if text[0] == "'":
        inner = inner.replace("\\'", "'").replace('"', '\\"')
    try:
        value = orjson.loads(f'"{inner}"')
    except orjson.JSONDecodeError:
        raise PathError(at + 1, "the quoted name has a wrong escape") from None
    return str(value)


def _skip(source: str, at: int) -> int:
    blank = _BLANK.match(source, at)
    return blank.end() if blank else at


def find(value: object, path: Sequence[Segment]) -> list[object]:
    """The values at a path, in order; at most `VALUES_MAX` are kept between two segments."""
    values = [value]
    for segment in path:
        places = (one for value in values for one in (_inside(value) if segment.deep else (value,)))
        found = (hit for place in islice(places, VISITED_MAX) for hit in _select(place, segment.selectors))
        values = list(islice(found, VALUES_MAX))
    return values


def _inside(value: object) -> Iterator[object]:
    """The value and all values in it, each before what it has."""
    waiting = [value]
    while waiting:
        here = waiting.pop()
        yield here
        if isinstance(here, Mapping):
            waiting += reversed(list(here.values()))
        elif isinstance(here, list):
            waiting += reversed(here)


def _select(value: object, selectors: Sequence[Selector]) -> Iterator[object]:
    for selector in selectors:
        match selector:
            case str() if isinstance(value, Mapping) and selector in value:
                yield value[selector]
            case int() if isinstance(value, list) and -len(value) <= selector < len(value):
                yield value[selector]
            case slice() if isinstance(value, list):
                yield from value[selector]
            case _All():
                yield from value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()


def equal(first: object, second: object) -> bool:
    """As JSON values: 1 is 1.0, true is not 1; the order of fields does not count."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


@dataclass(frozen=True)
class JsonPath:
    """Grades 1.0 or 0.0; passed at 1.0."""

    type: ClassVar[str] = "json_path"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    input: Template
    path: str
    reference: Template | None

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "input", "path", "reference")
        path = reader.text("path", characters_max=TEXT_CHARACTERS_MAX)
        try:
            parse_path(path)
        except PathError as error:
            raise _malformed(reader.field("path"), path, error) from None
        reference = reader.template("reference") if reader.has("reference") else None
        return cls(reader.name(), reader.template("input", ANSWER), path, reference)

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "path": self.path,
            **({"reference": self.reference.source} if self.reference else {}),
        }

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            text = self.input.render(item, sample)
            reference = None if self.reference is None else self.reference.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        try:
            found = find(orjson.loads(text), parse_path(self.path))
        except orjson.JSONDecodeError as error:
            return Grade(0.0, f"no JSON: {error.msg} at character {error.pos + 1}")
        if not found:
            return Grade(0.0, f"nothing is at {self.path}")
        value = found[0] if len(found) == 1 else found
        try:
            told = quoted(text_of(value))
            is_right = reference is None or _is(value, reference)
        except (Unresolved, RecursionError):
            return ungraded(Fault.SAMPLE, "the value is nested too deeply to be compared")
        return Grade(
            float(is_right), f"{told} is at {self.path}" + ("" if is_right else f", not {quoted(reference or '')}")
        )


def _is(value: object, reference: str) -> bool:
    """Whether the value is the reference, as JSON where that is JSON, as plain text otherwise."""
    if value == reference:
        return True
    try:
        return equal(value, orjson.loads(reference))
    except orjson.JSONDecodeError:
        return False


def _malformed(field: str, path: str, error: PathError) -> Invalid:
    message = f"The path is malformed at character {error.position}: {error}."
    return refused("GRADER_PATH_INVALID", field, message, position=error.position, path=path[:200])
