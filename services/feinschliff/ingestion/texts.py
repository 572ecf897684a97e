"""Limits of what people write about datasets and versions."""

from __future__ import annotations

from collections.abc import Mapping

from feinschliff.kit.errors import FieldViolation, Invalid

PAIRS_MAX = 64
KEY_CHARACTERS_MAX = 64
LABEL_CHARACTERS_MAX = 512
ANNOTATION_CHARACTERS_MAX = 4096


def check_pairs(labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
    """Raises Invalid LABELS_INVALID, naming the map that is too large."""
    for field, pairs, cap in (
        ("labels", labels, LABEL_CHARACTERS_MAX),
        ("annotations", annotations, ANNOTATION_CHARACTERS_MAX),
    ):
        if (
            len(pairs) > PAIRS_MAX
            or any(not 1 <= len(key) <= KEY_CHARACTERS_MAX for key in pairs)
            or any(len(value) > cap for value in pairs.values())
        ):
            message = (
                f"At most {PAIRS_MAX} pairs; keys have 1 to {KEY_CHARACTERS_MAX} characters, values at most {cap}."
            )
            raise _refused("LABELS_INVALID", field, message)


def check_text(field: str, text: str, characters_max: int) -> None:
    """Raises Invalid TEXT_TOO_LONG, naming the field."""
    if len(text) > characters_max:
        raise _refused("TEXT_TOO_LONG", field, f"`{field}` has {len(text)} characters; at most {characters_max}.")


def _refused(reason: str, field: str, message: str) -> Invalid:
    return Invalid(reason, message, fields=[FieldViolation(field, message, reason)], field=field)
