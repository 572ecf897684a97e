"""Reads the JSON definition of a grader field by field, with refusals that name the field."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from feinschliff.graders import template
from feinschliff.graders.grade import quoted
from feinschliff.kit.errors import FieldViolation, Invalid

Spec = Mapping[str, object]
"""A grader's definition as JSON values, with the field names of OpenAI's graders."""

NAME_CHARACTERS_MAX = 100
TEMPLATE_CHARACTERS_MAX = 100_000
ANSWER = "{{ sample.output_text }}"
"""The text that graders read where their definition does not say."""
PASS_THRESHOLD_DEFAULT = 0.5
TEXT_CHARACTERS_MAX = 4096
_NESTED_NAMES = {"range": "range_low", "sampling_params": "sampling"}


class SpecReader:
    """One definition; `path` is where it stands in the request, such as `eval.graders[0]`.

    `nested` says that the fields of a type stand under the type's name, as in the gRPC API; OpenAI's JSON is flat.
    `depth` counts the graders that this one is inside of. `is_stored` says that it was accepted once already.
    """

    def __init__(self, spec: Spec, path: str, *, nested: bool = False, depth: int = 0, is_stored: bool = False) -> None:
        self._spec = spec
        self.type = str(spec.get("type", ""))
        self._path = path
        self.nested = nested
        self.depth = depth
        self.is_stored = is_stored

    def field(self, name: str) -> str:
        if self.nested and name not in ("name", "type"):
            return f"{self._path}.{self._spec['type']}.{_NESTED_NAMES.get(name, name)}"
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        return self._spec.get(name) is not None

    def only(self, *names: str) -> None:
        """Refuse fields that this type does not have, so that a misspelt option is not silently a default."""
        unknown = sorted(set(self._spec) - {"type", *names})
        if unknown:
            message = f"A {self._spec['type']} grader has no field {unknown[0]!r}."
            raise refused("GRADER_FIELD_UNKNOWN", self.field(unknown[0]), message, name=unknown[0])

    def value(self, name: str) -> object:
        value = self._spec.get(name)
        if value is None:
            raise refused("GRADER_FIELD_MISSING", self.field(name), f"A grader needs {name!r}.", name=name)
        return value

    def text(self, name: str, default: str | None = None, *, characters_max: int = TEMPLATE_CHARACTERS_MAX) -> str:
        if default is not None and not self.has(name):
            return default
        value = self.value(name)
        if not isinstance(value, str):
            raise self.wrong_type(name, "a string")
        if len(value) > characters_max:
            message = f"{name!r} has {len(value)} characters; at most {characters_max} are read."
            raise refused("GRADER_FIELD_TOO_LONG", self.field(name), message, name=name, characters=len(value))
        return value

    def name(self) -> str:
        name = self.text("name").strip()
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
            message = f"A grader's name has 1 to {NAME_CHARACTERS_MAX} characters; this one has {len(name)}."
            raise refused("GRADER_NAME_INVALID", self.field("name"), message, characters=len(name))
        return name

    def template(self, name: str, default: str | None = None) -> template.Template:
        return template.parse(self.text(name, default), field=self.field(name))

    def number(self, name: str, default: float, low: float, high: float = math.inf) -> float:
        """A number from `low` to `high`."""
        value = self._spec.get(name, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong_type(name, "a number")
        if not low <= value <= high or math.isinf(value):
            words = f"lie in {low:g} to {high:g}" if math.isfinite(high) else f"be finite and at least {low:g}"
            message = f"{name!r} must {words}; it is {value}."
            raise refused("GRADER_FIELD_RANGE", self.field(name), message, name=name, value=value)
        return float(value)

    def fraction(self, name: str, default: float) -> float:
        return self.number(name, default, 0, 1)

    def count(self, name: str) -> int | None:
        """A whole number from 0 on, or None where nothing is said."""
        value = self._spec.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong_type(name, "a whole number")
        if value < 0:
            message = f"{name!r} must be at least 0; it is {value}."
            raise refused("GRADER_FIELD_RANGE", self.field(name), message, name=name, value=value)
        return value

    def flag(self, name: str) -> bool:
        value = self._spec.get(name) or False
        if not isinstance(value, bool):
            raise self.wrong_type(name, "true or false")
        return value

    def mapping(self, name: str, *, is_needed: bool = True) -> Mapping[str, object]:
        value = self.value(name) if is_needed else self._spec.get(name) or {}
        if not isinstance(value, Mapping):
            raise self.wrong_type(name, "an object")
        return value

    def texts(self, name: str, least: int, most: int) -> tuple[str, ...]:
        """A list of texts that all differ and are not empty."""
        value = self.value(name) if least else self._spec.get(name) or ()
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
            raise self.wrong_type(name, "a list of strings")
        if not least <= len(value) <= most:
            message = f"{name!r} must have {least} to {most} entries; it has {len(value)}."
            raise refused("GRADER_FIELD_RANGE", self.field(name), message, name=name, value=len(value))
        for place, text in enumerate(value):
            if not text.strip() or len(text) > TEXT_CHARACTERS_MAX or text in value[:place]:
                message = (
                    f"Entries of {name!r} have 1 to {TEXT_CHARACTERS_MAX} characters and differ from each other; "
                    f"{quoted(text)} does not fit."
                )
                raise refused("GRADER_FIELD_RANGE", f"{self.field(name)}[{place}]", message, name=name, value=text[:80])
        return tuple(value)

    def choice(
        self,
        name: str,
        allowed: Iterable[str],
        reason: str = "GRADER_VALUE_UNKNOWN",
        aliases: Mapping[str, str] | None = None,
        default: str | None = None,
    ) -> str:
        value = self.text(name, default)
        value = (aliases or {}).get(value, value)
        choices = list(allowed)
        if value not in choices:
            message = f"{quoted(value)} is not a {name}; it must be one of {', '.join(choices)}."
            raise refused(reason, self.field(name), message, value=value)
        return value

    def wrong_type(self, name: str, wanted: str) -> Invalid:
        return refused("GRADER_FIELD_TYPE", self.field(name), f"{name!r} must be {wanted}.", name=name)


def refused(reason: str, field: str, message: str, **metadata: object) -> Invalid:
    refusal = Invalid(reason, message, fields=[FieldViolation(field, message, reason)], field=field)
    refusal.metadata |= {name: str(value) for name, value in metadata.items()}
    return refusal
