"""Reads the JSON definition of a grader field by field, with refusals that name the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from feinschliff.graders import template
from feinschliff.graders.grade import quoted
from feinschliff.kit.errors import FieldViolation, Invalid

Spec = Mapping[str, object]
"""A grader's definition as JSON values, with the field names of OpenAI's graders."""

NAME_CHARACTERS_MAX = 100
TEMPLATE_CHARACTERS_MAX = 100_000


class SpecReader:
    """One definition; `path` is where it stands in the request, such as `eval.graders[0]`.

    `nested` says that the fields of a type stand under the type's name, as in the gRPC API; OpenAI's JSON is flat.
    """

    def __init__(self, spec: Spec, path: str, *, nested: bool = False) -> None:
        self._spec = spec
        self._path = path
        self._nested = nested

    def field(self, name: str) -> str:
        if self._nested and name not in ("name", "type"):
            return f"{self._path}.{self._spec['type']}.{name}"
        return f"{self._path}.{name}" if self._path else name

    def only(self, *names: str) -> None:
        """Refuse fields that this type does not have, so that a misspelt option is not silently a default."""
        unknown = sorted(set(self._spec) - {"type", *names})
        if unknown:
            message = f"A {self._spec['type']} grader has no field {unknown[0]!r}."
            raise refused("GRADER_FIELD_UNKNOWN", self.field(unknown[0]), message, name=unknown[0])

    def text(self, name: str) -> str:
        value = self._spec.get(name)
        if value is None:
            raise refused("GRADER_FIELD_MISSING", self.field(name), f"A grader needs {name!r}.", name=name)
        if not isinstance(value, str):
            raise refused("GRADER_FIELD_TYPE", self.field(name), f"{name!r} must be a string.", name=name)
        return value

    def name(self) -> str:
        name = self.text("name").strip()
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
            message = f"A grader's name has 1 to {NAME_CHARACTERS_MAX} characters; this one has {len(name)}."
            raise refused("GRADER_NAME_INVALID", self.field("name"), message, characters=len(name))
        return name

    def template(self, name: str) -> template.Template:
        source = self.text(name)
        if len(source) > TEMPLATE_CHARACTERS_MAX:
            message = f"{name!r} has {len(source)} characters; at most {TEMPLATE_CHARACTERS_MAX} are read."
            raise refused("GRADER_FIELD_TOO_LONG", self.field(name), message, name=name, characters=len(source))
        return template.parse(source, field=self.field(name))

    def fraction(self, name: str, default: float) -> float:
        value = self._spec.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refused("GRADER_FIELD_TYPE", self.field(name), f"{name!r} must be a number.", name=name)
        if not 0 <= value <= 1:
            message = f"{name!r} must lie in 0 to 1; it is {value}."
            raise refused("GRADER_FIELD_RANGE", self.field(name), message, name=name, value=value)
        return float(value)

    def choice(self, name: str, allowed: Iterable[str], reason: str, aliases: Mapping[str, str]) -> str:
        value = self.text(name)
        value = aliases.get(value, value)
        choices = list(allowed)
        if value not in choices:
            message = f"{quoted(value)} is not a {name}; it must be one of {', '.join(choices)}."
            raise refused(reason, self.field(name), message, value=value)
        return value


def refused(reason: str, field: str, message: str, **metadata: object) -> Invalid:
    refusal = Invalid(reason, message, fields=[FieldViolation(field, message, reason)], field=field)
    refusal.metadata |= {name: str(value) for name, value in metadata.items()}
    return refusal
