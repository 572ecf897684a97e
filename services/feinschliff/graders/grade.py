"""What a grader gets and what it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import orjson

Item = Mapping[str, object]
"""One row of data as JSON values; templates call it `item`."""


class Grade(NamedTuple):
    """A number in [0, 1], or None where the answer cannot be graded, and in both cases the reason in words.

    None is not a zero: reports count it apart and no mean contains it.
    """

    value: float | None
    why: str


@dataclass(frozen=True)
class Sample:
    """What a model answered; templates call it `sample`."""

    output_text: str
    tool_calls: Sequence[Mapping[str, object]] = field(default_factory=tuple)

    @cached_property
    def values(self) -> Mapping[str, object]:
        """The fields that templates can name; `output_json` is there only where the whole text is JSON."""
        values: dict[str, object] = {"output_text": self.output_text, "output_tools": list(self.tool_calls)}
        try:
            values["output_json"] = orjson.loads(self.output_text)
        except orjson.JSONDecodeError:
            return values
        return values


SAMPLE_FIELDS = ("output_text", "output_json", "output_tools")


def quoted(text: str, characters_max: int = 80) -> str:
    """A text as a reason shows it: in quotes, on one line, cut where it is long."""
    cut = text if len(text) <= characters_max else text[: characters_max - 1] + "…"
    return json.dumps(cut, ensure_ascii=False)
