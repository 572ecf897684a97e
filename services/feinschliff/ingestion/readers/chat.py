"""Conversations as OpenAI's fine-tuning takes them: `{"messages": [{"role", "content"}, ...]}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from feinschliff.ingestion.readers.chat_messages import normal_messages
from feinschliff.ingestion.readers.chat_tools import normal_tools
from feinschliff.ingestion.readers.reader import (
    Content,
    Description,
    Problems,
    json_type,
    parse_object,
    refuse_unknown_keys,
    sniff_object,
)

_ROW_KEYS = frozenset({"messages", "tools", "functions", "parallel_tool_calls"})
_PLAIN_ROLES = frozenset({"system", "developer", "user", "assistant"})


class ChatReader:
    """Every shape of OpenAI's supervised rows but pictures; unknown keys are refused by name."""

    name: ClassVar[str] = "chat"
    family: ClassVar[str] = "chat"
    description: ClassVar[Description] = Description(
        summary="One conversation a row; the model learns from the assistant's turns, unless their weight is 0.",
        required_fields=("messages",),
        optional_fields=("tools", "parallel_tool_calls", "functions"),
        example={
            "messages": [
                {"role": "system", "content": "Answer with the intent only."},
                {"role": "user", "content": "Where is my parcel?"},
                {"role": "assistant", "content": "track_order"},
            ]
        },
    )

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns

    def recognises(self, line: bytes) -> bool:
        row = sniff_object(line, self._columns)
        return row is not None and "messages" in row

    def read(self, line: bytes) -> Content:
        row = parse_object(line, self._columns)
        return row if is_plain(row) else normalise(row)


def is_plain(row: Mapping[str, object]) -> bool:
    """Whether a row is in normal form already: the usual case, seen without building anything.

    True only where `normalise` would give the row back as it is.
    """
    messages = row.get("messages")
    if len(row) != 1 or type(messages) is not list:
        return False
    has_answer = False
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return False
        role, content = message.get("role"), message.get("content")
        if type(role) is not str or type(content) is not str:
            return False
        if role not in _PLAIN_ROLES or not content or content.isspace():
            return False
        if role == "assistant":
            has_answer = True
    return has_answer


def normalise(row: Mapping[str, object]) -> Content:
    """The row in normal form: parts joined, old function calls as tool calls, nulls gone.

    Raises:
        BadRow: with every problem found.
    """
    problems = Problems()
    refuse_unknown_keys(row, _ROW_KEYS, problems)
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and type(parallel) is not bool:
        problems.add("wrong_type", "parallel_tool_calls", f"{json_type(parallel)} where true or false belongs")
    tools = normal_tools(row, problems)
    messages = _messages(row, problems)
    problems.raise_if_any()
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def _messages(row: Mapping[str, object], problems: Problems) -> list[Content]:
    messages = row.get("messages")
    if messages is None:
        problems.add("missing_messages_list", "messages", "there is no list `messages`")
        return []
    if not isinstance(messages, list):
        problems.add("missing_messages_list", "messages", f"`messages` is {json_type(messages)}, not a list")
        return []
    if not messages:
        problems.add("missing_messages_list", "messages", "`messages` is empty")
        return []
    return normal_messages(messages, problems)
