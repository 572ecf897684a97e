"""One row of data in its normal form, as every reader makes it and the trainer reads it."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import orjson
from pydantic import Field

from feinschliff.formats.base import Stored

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool", "function")


class Message(Stored):
    """One turn of a conversation; `content` is None only where tool calls stand in its place."""

    role: Role
    content: str | None = None
    weight: int | None = Field(None, ge=0, le=1, description="0 keeps an assistant turn out of the loss.")
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class Record(Stored):
    """One conversation; the loss falls on its assistant turns.

    `line` is the 1-based line of the source file and is not part of the content hash.
    """

    messages: list[Message] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    line: int = Field(0, ge=0)

    def content_digest(self) -> bytes:
        """SHA-256 of the row's content in canonical JSON; equal rows at different lines have equal digests."""
        content = self.model_dump(exclude={"line"}, exclude_none=True)
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()

    def to_json_line(self) -> bytes:
        return orjson.dumps(self.model_dump(exclude_none=True)) + b"\n"

    @classmethod
    def from_json_line(cls, line: bytes) -> Record:
        return cls.model_validate_json(line)
