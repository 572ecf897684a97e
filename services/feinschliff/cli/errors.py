"""A refusal as a person reads it on a terminal, and as a program reads it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from feinschliff.kit.errors import Refusal

REFUSED = 1
FIELDS_SHOWN = 20


def describe(refusal: Refusal) -> Iterator[str]:
    """The reason and what happened, the fields or lines that are wrong, and what to do."""
    yield f"{refusal.reason}: {refusal.message}"
    for field in refusal.fields[:FIELDS_SHOWN]:
        if field.description != refusal.message:
            yield f"  {field.field}: {field.description}" + (f" ({field.reason})" if field.reason else "")
        else:
            yield f"  {field.field}"
    if len(refusal.fields) > FIELDS_SHOWN:
        yield f"  ... and {len(refusal.fields) - FIELDS_SHOWN} more"
    for advice in refusal.advice:
        yield f"  try: {advice}"


def as_json(refusal: Refusal) -> dict[str, object]:
    return {
        "error": {
            "reason": refusal.reason,
            "code": refusal.code.name,
            "message": refusal.message,
            "fields": [field._asdict() for field in refusal.fields],
            "advice": list(refusal.advice),
            "metadata": dict(refusal.metadata),
        }
    }


def show(refusal: Refusal, *, in_json: bool) -> None:
    """On stderr: lines for a person, or one JSON document where the command was to speak JSON."""
    if in_json:
        print(json.dumps(as_json(refusal), ensure_ascii=False), file=sys.stderr)
        return
    for line in describe(refusal):
        print(line, file=sys.stderr)
