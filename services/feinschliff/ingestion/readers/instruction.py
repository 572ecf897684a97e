"""Instruction pairs: `{"instruction", "input"?, "output"}`, made into a question and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from feinschliff.ingestion.readers.reader import (
    Content,
    Description,
    Problems,
    json_type,
    parse_object,
    refuse_unknown_keys,
    sniff_object,
)

_KEYS = frozenset({"instruction", "input", "output", "system"})


class InstructionReader:
    """The instruction, a blank line and the input (where there is one) are what the user says; the output answers."""

    name: ClassVar[str] = "instruction"
    family: ClassVar[str] = "instruction"
    description: ClassVar[Description] = Description(
        summary="One task and its answer a row; `input` is what the task works on, `system` stands above both.",
        required_fields=("instruction", "output"),
        optional_fields=("input", "system"),
        example={"instruction": "Translate into German.", "input": "Good morning!", "output": "Guten Morgen!"},
    )

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns

    def recognises(self, line: bytes) -> bool:
        row = sniff_object(line, self._columns)
        return row is not None and "instruction" in row

    def read(self, line: bytes) -> Content:
        row = parse_object(line, self._columns)
        problems = Problems()
        refuse_unknown_keys(row, _KEYS, problems)
        system, instruction = _text(row, "system", problems, needed=False), _text(row, "instruction", problems)
        given, output = _text(row, "input", problems, needed=False), _text(row, "output", problems)
        problems.raise_if_any()
        question = f"{instruction}\n\n{given}" if given else instruction
        turns = [("system", system)] if system else []
        turns += [("user", question), ("assistant", output)]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _text(row: Mapping[str, object], key: str, problems: Problems, *, needed: bool = True) -> str:
    value = row.get(key)
    if value is None:
        if needed:
            problems.add("missing_key", key, f"the row has no `{key}`")
        return ""
    if not isinstance(value, str):
        problems.add("wrong_type", key, f"{json_type(value)} where a string belongs")
        return ""
    if value.strip():
        return value
    if needed:
        problems.add("empty_content", key, f"`{key}` says nothing")
    return ""
