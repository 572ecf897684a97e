"""What the completion log keeps of an exchange whole: one JSON text, whose size has a bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message

from feinschliff.kit.errors import Invalid
from feinschliff.v1 import ingestion_pb2 as pb

EXCHANGE_BYTES_MAX = 2 * 1024**2
"""What an installation takes that says nothing else."""
WHOLE = ("identity", "messages", "tools", "sampling", "response", "usage", "latency_seconds")
"""Fields that are kept, and never searched."""
JSON_PER_BYTE_MAX = 12
"""A byte of a message becomes at most so many of its JSON: short fields with their names count."""


def content_of(completion: pb.Completion) -> Mapping[str, Any]:
    """The API's JSON form of what is kept whole.

    Raises:
        Invalid: COMPLETION_INVALID where it has none.
    """
    whole: Message = pb.Completion()
    whole.CopyFrom(completion)
    for field, _ in completion.ListFields():
        if field.name not in WHOLE:
            whole.ClearField(field.name)
    try:
        content: Mapping[str, Any] = json_format.MessageToDict(whole, preserving_proto_field_name=True)
    except json_format.SerializeToJsonError as error:
        raise Invalid("COMPLETION_INVALID", f"The exchange has no form in JSON: {error}.") from error
    return content


def content_bytes(content: Mapping[str, Any]) -> int:
    """What counts towards the bound."""
    return len(orjson.dumps(content))


def may_exceed(completion: pb.Completion, bytes_max: int) -> bool:
    """Whether it has to be counted to know; told at once, and never False for one that is larger."""
    turns = len(completion.messages) + len(completion.tools) + 1
    return completion.ByteSize() * JSON_PER_BYTE_MAX + turns * 256 > bytes_max
