"""Dialogues with markers: `###Human: ... ###Assistant: ...`, a line each or in `{"text": ...}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from feinschliff.ingestion.readers.reader import (
    Content,
    Description,
    Problems,
    json_type,
    parse_object,
    parse_text,
    refuse_unknown_keys,
    sniff_object,
)

_MARKER = re.compile(r"###[ \t]*(System|Human|Assistant)[ \t]*:")
_JUDGED = frozenset({"label", "labels", "value"})  # what makes a text of any kind one to be judged
_ROLE_OF = {"System": "system", "Human": "user", "Assistant": "assistant"}


class HumanAssistantReader:
    """Turns alternate between Human and Assistant, Human first; one `###System:` may stand before them."""

    name: ClassVar[str] = "human_assistant"
    family: ClassVar[str] = "instruction"
    description: ClassVar[Description] = Description(
        summary="One dialogue a row with `###Human:` and `###Assistant:` before the turns; plain lines or JSON.",
        required_fields=("text",),
        optional_fields=(),
        example={"text": "###Human: Where is my parcel? ###Assistant: On its way; it comes tomorrow."},
        file_suffixes=(".jsonl", ".txt"),
    )

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns

    def recognises(self, line: bytes) -> bool:
        row = sniff_object(line, self._columns)
        if row is None:
            return _MARKER.match(line.decode(errors="replace").lstrip()) is not None
        text = row.get("text")
        return isinstance(text, str) and set(row).isdisjoint(_JUDGED) and _MARKER.match(text.lstrip()) is not None

    def read(self, line: bytes) -> Content:
        problems = Problems()
        in_json = line.lstrip()[:1] == b"{"
        text = self._text_of(line, problems) if in_json else parse_text(line)
        problems.raise_if_any()
        turns = _turns(text, "text" if in_json else "", problems)
        problems.raise_if_any()
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    def _text_of(self, line: bytes, problems: Problems) -> str:
        row = parse_object(line, self._columns)
        refuse_unknown_keys(row, frozenset({"text"}), problems)
        text = row.get("text")
        if isinstance(text, str):
            return text
        if text is None:
            problems.add("missing_key", "text", "the row has no `text`")
        else:
            problems.add("wrong_type", "text", f"{json_type(text)} where a string belongs")
        return ""


def _turns(text: str, at: str, problems: Problems) -> list[tuple[str, str]]:
    before, *rest = _MARKER.split(text)
    if not rest:
        problems.add("missing_turn_marker", at, "there is no `###Human:`")
        return []
    if before.strip():
        problems.add("text_before_first_turn", at, "there is text before the first marker")
    turns = [(_ROLE_OF[rest[index]], rest[index + 1].strip()) for index in range(0, len(rest), 2)]
    for index, (role, content) in enumerate(turns):
        if not content:
            problems.add("empty_content", f"turn[{index}]", f"the {role} turn says nothing")
    _check_order([role for role, _ in turns], problems)
    return turns


def _check_order(roles: list[str], problems: Problems) -> None:
    first = 1 if roles[0] == "system" else 0
    for index, role in enumerate(roles[first:], first):
        expected = "user" if (index - first) % 2 == 0 else "assistant"
        if role != expected:
            problems.add("turn_order", f"turn[{index}]", f"a {role} turn where the {expected} speaks")
            return
    if "assistant" not in roles:
        problems.add("example_missing_assistant_message", "", "there is no `###Assistant:`")
