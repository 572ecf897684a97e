"""One row of data in its normal form, as every reader makes it and the trainer reads it."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import orjson
from pydantic import Field, model_validator

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
    """One row: a conversation, whose assistant turns are learned, or a text, perhaps with what is to be said of it.

    `line` is the 1-based line of the source file and is not part of the content hash.
    """

    messages: list[Message] = Field(default_factory=list, description="Empty where the row is a text.")
    tools: list[dict[str, Any]] | None = None
    text: str | None = Field(None, min_length=1)
    label: str | None = Field(None, min_length=1, description="The text's class.")
    labels: list[str] | None = Field(None, description="The text's classes, sorted; may be none at all.")
    value: float | None = Field(None, description="The text's number.")
    line: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Record:
        if bool(self.messages) == (self.text is not None):
            raise ValueError("a row has either messages or a text")
        said = [name for name in ("label", "labels", "value") if getattr(self, name) is not None]
        if len(said) > 1 or (said and self.messages):
            raise ValueError(f"{' and '.join(said)} cannot be said of this row; a text has one of them at most")
        if self.tools and not self.messages:
            raise ValueError("tools belong to conversations")
        return self

    def content_digest(self) -> bytes:
        """SHA-256 of the row's content in canonical JSON; equal rows at different lines have equal digests."""
        content = self._content()
        content.pop("line")
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()

    def to_json_line(self) -> bytes:
        return orjson.dumps(self._content()) + b"\n"

    @classmethod
    def from_json_line(cls, line: bytes) -> Record:
        return cls.model_validate_json(line)

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(exclude_none=True)
        if not self.messages:
            del content["messages"]
        return content
