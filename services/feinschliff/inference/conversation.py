"""Between the API's messages and this room's own types: conversations and their answers, judgements of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.records import Message, Role
from feinschliff.inference.engine import Finish
from feinschliff.inference.models import Identity
from feinschliff.inference.proto import Asked, refuse_unserved
from feinschliff.inference.requests import MESSAGES_MAX
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.kit.structs import plain
from feinschliff.v1 import common_pb2, inference_pb2

_ROLES: dict[int, Role] = {
    common_pb2.ROLE_SYSTEM: "system",
    common_pb2.ROLE_DEVELOPER: "developer",
    common_pb2.ROLE_USER: "user",
    common_pb2.ROLE_ASSISTANT: "assistant",
    common_pb2.ROLE_TOOL: "tool",
}
_PARTS_OF: dict[Role, tuple[str, ...]] = {"assistant": ("text", "tool_call"), "tool": ("text", "tool_result")}
_FINISH: dict[Finish, common_pb2.FinishReason.ValueType] = {
    Finish.STOP: common_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: common_pb2.FINISH_REASON_LENGTH,
    Finish.FILTERED: common_pb2.FINISH_REASON_CONTENT_FILTER,
    Finish.CANCELLED: common_pb2.FINISH_REASON_CANCELLED,
    Finish.FAILED: common_pb2.FINISH_REASON_ERROR,
}
FINISH_WORDS: dict[int, str] = {reason: finish.value for finish, reason in _FINISH.items()}


def to_messages(turns: Sequence[common_pb2.Message], path: str) -> list[Message]:
    """A conversation as training and serving render it.

    Raises:
        Invalid: MESSAGES_INVALID, every wrong turn named.
        Unserved: FIELD_UNSERVED for images.
    """
    images = [
        Asked(f"{path}[{i}].parts[{k}].image", part.HasField("image"))
        for i, turn in enumerate(turns)
        for k, part in enumerate(turn.parts)
    ]
    refuse_unserved(images)
    wrong = [violation for i, turn in enumerate(turns) for violation in _violations(turn, f"{path}[{i}]")]
    if len(turns) > MESSAGES_MAX:
        wrong = [FieldViolation(path, f"A conversation has at most {MESSAGES_MAX} turns, not {len(turns)}.")]
    if wrong:
        message = " ".join(violation.description for violation in wrong[:5])
        raise Invalid("MESSAGES_INVALID", message, fields=wrong)
    return [_to_message(turn) for turn in turns]


def finish_reason(finish: Finish) -> common_pb2.FinishReason.ValueType:
    return _FINISH[finish]


def from_identity(identity: Identity) -> common_pb2.Identity:
    return common_pb2.Identity(**identity._asdict())


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> common_pb2.TokenUsage:
    return common_pb2.TokenUsage(
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def classification(judged: Sequence[float], facts: HeadFacts, top: int) -> inference_pb2.Classification:
    """The classes of one text, the likeliest first and equals in the head's order; or its number."""
    if facts.kind == "regress":
        return inference_pb2.Classification(value=judged[0])
    order = sorted(range(len(judged)), key=lambda number: -judged[number])
    best = order[: top or len(order)]
    return inference_pb2.Classification(
        scores=[inference_pb2.ClassScore(label=facts.classes[number], probability=judged[number]) for number in best]
    )


def _violations(turn: common_pb2.Message, path: str) -> list[FieldViolation]:
    role = _ROLES.get(turn.role)
    if role is None:
        return [FieldViolation(f"{path}.role", "A turn needs a role that the API knows.", "ROLE_UNKNOWN")]
    if not turn.parts and role != "assistant":
        return [FieldViolation(f"{path}.parts", f"A {role} turn must say something.", "PARTS_MISSING")]
    allowed = _PARTS_OF.get(role, ("text",))
    return [
        FieldViolation(f"{path}.parts[{k}]", f"A {role} turn takes {' and '.join(allowed)} only.", "PART_FORBIDDEN")
        for k, part in enumerate(turn.parts)
        if part.WhichOneof("content") not in allowed
    ]


def _to_message(turn: common_pb2.Message) -> Message:
    kinds = [part.WhichOneof("content") for part in turn.parts]
    results = [part.tool_result for part in turn.parts if part.HasField("tool_result")]
    calls = [_to_call(part.tool_call) for part in turn.parts if part.HasField("tool_call")]
    text = "".join(part.text for part in turn.parts) + "".join(result.text for result in results)
    return Message(
        role=_ROLES[turn.role],
        content=None if calls and "text" not in kinds else text,
        name=turn.name or None,
        tool_calls=calls or None,
        tool_call_id=results[0].tool_call_id if results else None,
    )


def _to_call(call: common_pb2.ToolCall) -> dict[str, Any]:
    arguments = call.invalid_arguments or orjson.dumps(plain(call.arguments)).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
