"""The form that an answer must have: a grammar, and the JSON schemas in it, as callers gave them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from feinschliff.kit.errors import FieldViolation, Invalid

MARKER = "%MARKER%"
TO_MARKER = f"lead: {MARKER}"
"""A rule, `lead`: any text up to the marker, and the marker."""

SCHEMA_BYTES_MAX = 256 * 1024
_BETWEEN = "( |\\n {0,16})?"  # what may stand between two signs of JSON: models write it flat or indented


@dataclass(frozen=True)
class Schema:
    """A JSON schema inside a form.

    Args:
        path: where it stands in the request.
        text: the schema as JSON; properties in the order in which they are written.
        strict: False lets what cannot be enforced pass.
    """

    path: str
    text: str
    strict: bool

    @classmethod
    def of(cls, given: Mapping[str, Any], path: str, *, strict: bool) -> Schema:
        """
        Raises:
            Invalid: REQUEST_INVALID where it is too long.
        """
        text = orjson.dumps(given).decode()
        if len(text) > SCHEMA_BYTES_MAX:
            rule = f"A schema has at most {SCHEMA_BYTES_MAX} bytes, not {len(text)}."
            raise Invalid("REQUEST_INVALID", rule, fields=[FieldViolation(path, rule, "OUT_OF_RANGE")])
        return cls(path, text, strict)

    @property
    def rule(self) -> str:
        """The texts that follow it, as a term of a grammar."""
        options = {"whitespace_pattern": _BETWEEN, "lenient": not self.strict}
        return "%json " + orjson.dumps({**orjson.loads(self.text), "x-guidance": options}).decode()


@dataclass(frozen=True)
class Form:
    """The texts that an answer can be.

    Args:
        grammar: in the dialect of Lark that llguidance reads; the answer is its `start`.
        schemas: those inside, so that a refusal can say which one it is about.
        marker: text that is one token where the vocabulary has it as a control token; `MARKER` and `TO_MARKER` stand
            for it in the grammar.
    """

    grammar: str
    schemas: tuple[Schema, ...] = ()
    marker: str = ""


def form_of(schema: Schema) -> Form:
    """The answer is one value that follows the schema."""
    return Form(f"start: {schema.rule}", (schema,))
