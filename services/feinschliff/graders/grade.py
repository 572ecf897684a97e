"""What a grader gets and what it gives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple, TypeGuard

import orjson

Item = Mapping[str, object]
"""One row of data as JSON values; templates call it `item`."""


class Fault(StrEnum):
    """What kept a grader from grading, by where it went wrong."""

    TEMPLATE = "template"
    FORMULA = "formula"
    PYTHON = "python"
    SANDBOX = "sandbox"
    JUDGE = "judge"
    JUDGE_REFUSED = "judge_refused"
    JUDGE_UNREADABLE = "judge_unreadable"
    SAMPLE = "sample"
    ENDPOINT = "endpoint"
    MODEL = "model"
    REFERENCE = "reference"


class Judgement(NamedTuple):
    """One question to a judging model, and what came back; `identity` has the fields of the API's Identity."""

    model: str
    instructions: str
    prompt: Sequence[Mapping[str, str]]
    answer: str
    identity: Mapping[str, str] = MappingProxyType({})
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Grade(NamedTuple):
    """A number in [0, 1], or None where the answer cannot be graded, and in both cases the reason in words.

    None is not a zero: reports count it apart and no mean contains it.

    Args:
        value: the grade.
        why: the reason.
        fault: where it went wrong, where `value` is None.
        raw: the number before it was scaled or clipped; None: `value` is that number.
        label: class, option or label that was read; empty: none.
        expected_label: the right one, for graders that have one.
        parts: numbers of the graders inside a formula.
        judgements: what a judging model was asked and said.
    """

    value: float | None
    why: str
    fault: Fault | None = None
    raw: float | None = None
    label: str = ""
    expected_label: str = ""
    parts: Mapping[str, float] = MappingProxyType({})
    judgements: Sequence[Judgement] = ()

    @property
    def number(self) -> float | None:
        """In the grader's own range, as formulas read it."""
        return self.value if self.raw is None else self.raw


@dataclass(frozen=True)
class Sample:
    """What a model answered; templates call it `sample`."""

    output_text: str
    tool_calls: Sequence[Mapping[str, object]] = field(default_factory=tuple)

    @cached_property
    def values(self) -> Mapping[str, object]:
        """The fields that templates can name; `output_json` is there only where the whole text is JSON."""
        calls = list(self.tool_calls)
        message: dict[str, object] = {"role": "assistant", "content": self.output_text}
        if calls:
            message["tool_calls"] = calls
        values: dict[str, object] = {
            "output_text": self.output_text,
            "output_tools": calls,
            "choices": [{"index": 0, "message": message}],
        }
        try:
            values["output_json"] = orjson.loads(self.output_text)
        except orjson.JSONDecodeError:
            return values
        return values


SAMPLE_FIELDS = ("output_text", "output_json", "output_tools", "choices")


def ungraded(fault: Fault, why: str) -> Grade:
    return Grade(None, why, fault)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a number that a float can hold, and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def quoted(text: str, characters_max: int = 80) -> str:
    """A text as a reason shows it: in quotes, on one line, cut where it is long."""
    cut = text if len(text) <= characters_max else text[: characters_max - 1] + "…"
    return json.dumps(cut, ensure_ascii=False)
