"""Is the text JSON that follows a schema?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Self

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from feinschliff.detectors.rule import PatternError, compiled
from feinschliff.graders.grade import Fault, Grade, Item, Sample, quoted, ungraded
from feinschliff.graders.references import first_dangling
from feinschliff.graders.spec import ANSWER, Spec, SpecReader, refused
from feinschliff.graders.template import Template, Unresolved, unresolved
from feinschliff.kit.errors import Invalid

SCHEMA_BYTES_MAX = 262_144
STEPS_MAX = 100_000
"""Keywords and patterns looked at for one text; a schema that wants more is not gone through."""
DEPTH_MAX = 64
_UNCOUNTED = ("unevaluatedItems", "unevaluatedProperties")
"""They go through a schema by ways of their own, which no count of keywords bounds."""
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values are schemas by names that anybody may choose."""


class _TooMuch(Exception):
    """The schema and the text together are more work than one grade is worth."""


@dataclass
class _Work:
    """Counts the steps of one check."""

    left: int = STEPS_MAX

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _TooMuch


@lru_cache(maxsize=1024)
def _automaton(pattern: str) -> Any:
    return compiled(pattern)


def _counted(check: Any, work: _Work) -> Any:
    def keyword(validator: Any, value: object, instance: object, schema: object) -> Any:
        work.step()
        return check(validator, value, instance, schema)

    return keyword


def _uncounted(validator: Any, value: object, instance: object, schema: object) -> Any:
    raise _TooMuch


def _validator(schema: Mapping[str, object], work: _Work) -> Any:
    """Draft 2020-12 without what could hang or call out: RE2 for patterns, no reference leaves the schema."""

    def pattern(validator: Any, pattern: str, instance: object, schema: object) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not _automaton(pattern).search(instance):
            yield ValidationError(f"{quoted(instance)} does not match {quoted(pattern)}")

    def pattern_properties(
        validator: Any, patterns: Mapping[str, object], instance: object, schema: object
    ) -> Iterator[ValidationError]:
        for one, inner in patterns.items() if isinstance(instance, Mapping) else ():
            for key, value in instance.items():  # type: ignore[attr-defined]
                work.step()
                if _automaton(one).search(key):
                    yield from validator.descend(value, inner, path=key, schema_path=one)

    def additional(
        validator: Any, wanted: object, instance: object, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if not isinstance(instance, Mapping):
            return
        patterns = [_automaton(one) for one in schema.get("patternProperties", ())]
        for key, value in instance.items():
            work.step()
            if key in schema.get("properties", ()) or any(one.search(key) for one in patterns):
                continue
            if wanted is False:
                yield ValidationError(f"{quoted(key)} is no property of the schema")
            elif isinstance(wanted, Mapping):
                yield from validator.descend(value, wanted, path=key)

    ours = {"pattern": pattern, "patternProperties": pattern_properties, "additionalProperties": additional}
    keywords = {name: _counted(check, work) for name, check in {**Draft202012Validator.VALIDATORS, **ours}.items()}
    keywords |= dict.fromkeys(_UNCOUNTED, _uncounted)
    plain = {name: value for name, value in schema.items() if name != "$schema"}  # it would lead to another validator
    return extend(Draft202012Validator, keywords)(plain, registry=Registry())


@dataclass(frozen=True)
class JsonSchema:
    """Grades 1.0 or 0.0; passed at 1.0. A text that is no JSON is 0.0."""

    type: ClassVar[str] = "json_schema"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    input: Template
    schema: Mapping[str, object] = field(hash=False)

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "input", "schema")
        schema = reader.mapping("schema")
        _check(schema, reader.field("schema"), is_stored=reader.is_stored)
        return cls(reader.name(), reader.template("input", ANSWER), schema)

    def spec(self) -> Spec:
        return {"type": self.type, "name": self.name, "input": self.input.source, "schema": self.schema}

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            text = self.input.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return Grade(0.0, f"no JSON: {error.msg} at character {error.pos + 1}")
        try:
            problem = next(_validator(self.schema, _Work()).iter_errors(value), None)
        except (_TooMuch, RecursionError):
            return ungraded(Fault.SAMPLE, "schema and text together are too much to go through")
        except Exception:
            found = first_dangling(self.schema)
            if found is None:
                raise
            return ungraded(Fault.REFERENCE, f"the schema cannot be used: {found}")
        if problem is None:
            return Grade(1.0, "follows the schema")
        return Grade(0.0, f"{problem.json_path}: {problem.message[:500]}")


def _check(schema: Mapping[str, object], field: str, *, is_stored: bool) -> None:
    """Refuse at the definition what would fail at rows; of a stored one only what would fail at every row."""
    try:
        size = len(orjson.dumps(schema))
    except (TypeError, orjson.JSONEncodeError):
        raise _wrong(field, "it is no JSON") from None
    if size > SCHEMA_BYTES_MAX:
        raise _wrong(field, f"it has {size} bytes; at most {SCHEMA_BYTES_MAX} are read")
    _walk(schema, field, 0)
    try:
        Draft202012Validator.check_schema(schema)
        if not is_stored:
            _check_references(schema, field)
        next(_validator(schema, _Work()).iter_errors(None), None)
    except SchemaError as error:
        raise _wrong(field, f"{error.json_path}: {error.message[:500]}") from None
    except (_TooMuch, RecursionError):
        raise _wrong(field, "it refers to itself without end, or too often") from None
    except Unresolvable as error:
        raise _wrong(field, f"it refers to what is not in it: {str(error)[:200]}") from None
    except ValueError as error:  # of `urllib`, for an $id that is no address
        raise _wrong(field, f"an $id in it cannot be read: {error}") from None


def _check_references(schema: Mapping[str, object], field: str) -> None:
    found = first_dangling(schema)
    if found is not None:
        message = f"The schema cannot be used: {found}. Define what it names, under $defs, or correct the reference."
        raise refused("GRADER_SCHEMA_INVALID", field, message, pointer=found.pointer, reference=found.reference[:200])


def _walk(schema: object, field: str, depth: int, *, is_names: bool = False) -> None:
    if depth > DEPTH_MAX:
        raise _wrong(field, f"it is nested more than {DEPTH_MAX} levels deep")
    if isinstance(schema, Mapping):
        _check_keywords(schema, field)
        unserved = next((name for name in _UNCOUNTED if name in schema), None)
        if unserved is not None and not is_names:
            raise _wrong(field, f"{unserved} is not served; additionalProperties and items are")
        if depth and isinstance(schema.get("$schema"), str):
            raise _wrong(field, "$schema may stand at its beginning alone")
        for name, value in schema.items():
            _walk(value, field, depth + 1, is_names=name in _NAMED and not is_names)
    elif isinstance(schema, Sequence) and not isinstance(schema, str):
        for value in schema:
            _walk(value, field, depth + 1)


def _check_keywords(schema: Mapping[str, object], field: str) -> None:
    for name in ("$ref", "$dynamicRef"):
        ref = schema.get(name)
        if isinstance(ref, str) and not ref.startswith("#"):
            raise _wrong(field, f"{name} {quoted(ref)} leads out of it; only '#...' is followed")
    patterns = schema.get("patternProperties")
    for pattern in (schema.get("pattern"), *(patterns if isinstance(patterns, Mapping) else ())):
        try:
            if isinstance(pattern, str):
                _automaton(pattern)
        except PatternError as error:
            raise _wrong(field, f"RE2 does not take the pattern {quoted(pattern)}: {error}") from None


def _wrong(field: str, why: str) -> Invalid:
    return refused("GRADER_SCHEMA_INVALID", field, f"The schema cannot be used: {why}.")
