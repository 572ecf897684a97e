"""What a project does not want to keep of an exchange: personal data, replaced before anything is stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from feinschliff.detectors.redaction import KINDS, redacted
from feinschliff.ingestion.completion_model import Content
from feinschliff.kit.errors import FieldViolation, Invalid, Unserved

FORMLESS = ("person", "address")
"""Kinds of the API that no rule can find by their form."""
_SAID = ("messages", "response")
_NAMES = ("role", "id", "name", "tool_call_id", "uri", "detail")
"""What tells turns, calls and pictures apart, and says nothing."""


def refuse_kinds(kinds: Collection[str]) -> None:
    """
    Raises:
        Unserved: FIELD_UNSERVED for a kind that nothing here finds: what nobody replaces must not be promised.
        Invalid: POLICY_INVALID for one that is none.
    """
    field = "completion_policy.redact"
    if unserved := [kind for kind in kinds if kind in FORMLESS]:
        message = f"`{unserved[0]}` has no form that could be found; {', '.join(KINDS)} are replaced."
        raise Unserved(
            "FIELD_UNSERVED",
            message,
            fields=[FieldViolation(field, message, "FIELD_UNSERVED")],
            advice=["Let a deployment's guards mask words or patterns, or keep nothing: logging.refuse_store."],
            unserved=field,
        )
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        message = f"{wrong[0][:64]!r} is no kind of personal data; {', '.join(KINDS)} are replaced."
        raise Invalid("POLICY_INVALID", message, fields=[FieldViolation(field, message, "OUT_OF_RANGE")])


def without(content: Content, kinds: Collection[str]) -> Content:
    """An exchange with stand-ins for these kinds, in every text and in arguments of tools; its names stay."""
    if not kinds:
        return content
    return {key: _walked(value, kinds) if key in _SAID else value for key, value in content.items()}


def turn_without(turn: Content, kinds: Collection[str]) -> Content:
    """The same for one turn."""
    found: Content = _walked(turn, kinds) if kinds else turn
    return found


def text_without(text: str, kinds: Collection[str]) -> str:
    return redacted(text, kinds) if kinds else text


def _walked(value: Any, kinds: Collection[str], *, is_said: bool = False) -> Any:
    if isinstance(value, str):
        return redacted(value, kinds)
    if isinstance(value, list):
        return [_walked(one, kinds, is_said=is_said) for one in value]
    if isinstance(value, Mapping):
        return {
            key: one if key in _NAMES and not is_said else _walked(one, kinds, is_said=is_said or key == "arguments")
            for key, one in value.items()
        }
    return value
