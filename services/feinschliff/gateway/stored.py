"""Stored exchanges as OpenAI shows them, and judgements of them, which are our own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import orjson
from pydantic import BeforeValidator, Field, JsonValue

from feinschliff.formats.schemas import in_order
from feinschliff.gateway import ids
from feinschliff.gateway.answers import FINISH, Envelope, Shape
from feinschliff.gateway.bodies import Body, Metadata
from feinschliff.gateway.conversation import ROLES
from feinschliff.gateway.errors import ApiError
from feinschliff.gateway.jobs import seconds
from feinschliff.gateway.pages import Item
from feinschliff.kit.structs import plain
from feinschliff.v1 import common_pb2, inference_pb2
from feinschliff.v1 import ingestion_pb2 as pb

_KEY = re.compile(r"[A-Za-z0-9_./-]+")  # what a filter can name
_ROLE_NAMES = {value: name for name, value in ROLES.items()}
_PREFIX, _SUFFIX = "metadata[", "]"


class MetadataBody(Body):
    """`POST /v1/chat/completions/{id}`."""

    metadata: Metadata


class Correction(Body):
    """What the answer should have been; a plain string is its text."""

    role: Literal["assistant"] = "assistant"
    content: str = Field(min_length=1)


def _as_turn(given: object) -> object:
    return {"content": given} if isinstance(given, str) else given


class FeedbackBody(Body):
    """`POST /v1/chat/completions/{id}/feedback`."""

    value: float | None = Field(None, ge=0, le=1)
    comment: str | None = Field(None, max_length=4096)
    correction: Annotated[Correction | None, BeforeValidator(_as_turn)] = None
    author: str | None = Field(None, max_length=128)
    metadata: Metadata = None

    def to_feedback(self) -> pb.Feedback:
        feedback = pb.Feedback(
            value=self.value, comment=self.comment or "", author=self.author or "", labels=self.metadata or {}
        )
        if self.correction is not None:
            part = common_pb2.Part(text=self.correction.content)
            feedback.correction.CopyFrom(common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, parts=[part]))
        return feedback


def filter_of(model: str, query: Mapping[str, str]) -> str:
    """The log's filter for the list's own parameters, `model` as the log names it.

    Raises:
        ApiError: 400 where a metadata key cannot be filtered by.
    """
    wanted = [f"model = {_quoted(model)}"] if model else []
    for name, value in query.items():
        if not (name.startswith(_PREFIX) and name.endswith(_SUFFIX)):
            continue
        key = name[len(_PREFIX) : -len(_SUFFIX)]
        if not _KEY.fullmatch(key):
            message = (
                f"Only metadata keys of letters, digits, '_', '.', '/' and '-' can be filtered by, not '{key[:64]}'."
            )
            raise ApiError(400, message, code="invalid_value", param="metadata")
        wanted.append(f"metadata.{key} = {_quoted(value)}")
    return " AND ".join(wanted)


def from_time(found: pb.Completion, *, is_ascending: bool) -> str:
    """The comparison that leaves out what stands well before a completion in the list."""
    return f'create_time {">=" if is_ascending else "<="} "{found.create_time.ToJsonString()}"'


def to_completion(stored: pb.Completion, model: str) -> Item:
    envelope = Envelope(ids.last_part(stored.name), seconds(stored.create_time), model)
    answer = inference_pb2.ChatResponse(
        identity=stored.identity,
        message=stored.response,
        finish_reason=stored.finish_reason if stored.finish_reason in FINISH else common_pb2.FINISH_REASON_UNSPECIFIED,
        usage=stored.usage,
    )
    sampling = stored.sampling
    asked: Item = {
        "request_id": stored.request_id or None,
        "metadata": dict(stored.metadata),
        "input_user": stored.user or None,
        "tools": [_tool(tool) for tool in stored.tools] or None,
        "tool_choice": None,
        "response_format": _format(sampling.response_format),
    }
    for name in ("seed", "temperature", "top_p", "presence_penalty", "frequency_penalty"):
        asked[name] = getattr(sampling, name) if sampling.HasField(name) else None
    return envelope.completion(answer, Shape()) | asked


def to_messages(stored: pb.Completion) -> list[Item]:
    """What was asked, each turn with an id of its own."""
    name = ids.last_part(stored.name)
    return [_message(turn, f"{name}-{number}") for number, turn in enumerate(stored.messages)]


def to_feedback(feedback: pb.Feedback) -> Item:
    parts = feedback.correction.parts
    return {
        "id": ids.last_part(feedback.name),
        "object": "chat.completion.feedback",
        "created": seconds(feedback.create_time),
        "completion_id": feedback.name.split("/")[3],
        "value": feedback.value if feedback.HasField("value") else None,
        "comment": feedback.comment or None,
        "correction": "".join(part.text for part in parts) if feedback.HasField("correction") else None,
        "author": feedback.author or None,
        "metadata": dict(feedback.labels),
    }


def param_of(path: str) -> str | None:
    """The path in the HTTP body for one in a request to the log."""
    ours = path.removeprefix("completion.").removeprefix("feedback.")
    return {"labels": "metadata", "feedback": None}.get(ours, ours)


def _message(turn: common_pb2.Message, turn_id: str) -> Item:
    text = "".join(part.text or part.tool_result.text for part in turn.parts)
    images = [part.image for part in turn.parts if part.HasField("image")]
    calls: list[JsonValue] = [_call(part.tool_call) for part in turn.parts if part.HasField("tool_call")]
    results = [part.tool_result.tool_call_id for part in turn.parts if part.HasField("tool_result")]
    content_parts: list[JsonValue] = [{"type": "text", "text": text}] if text else []
    content_parts += [{"type": "image_url", "image_url": {"url": image.uri}} for image in images]
    said: Item = {
        "id": turn_id,
        "role": _ROLE_NAMES.get(turn.role, "user"),
        "content": text if text or not calls else None,
        "name": turn.name or None,
        "content_parts": content_parts if images else None,
    }
    if calls:
        said["tool_calls"] = calls
    return said | ({"tool_call_id": results[0]} if results else {})


def _call(call: common_pb2.ToolCall) -> JsonValue:
    arguments = call.invalid_arguments or orjson.dumps(plain(call.arguments)).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: common_pb2.Tool) -> JsonValue:
    parameters = in_order(plain(tool.parameters)) if tool.HasField("parameters") else None
    told: Item = {"name": tool.name, "description": tool.description, "parameters": parameters, "strict": tool.strict}
    return {"type": "function", "function": told}


def _format(wanted: common_pb2.ResponseFormat) -> JsonValue:
    match wanted.WhichOneof("format"):
        case "json_schema":
            schema = wanted.json_schema
            told: Item = {
                "name": schema.name,
                "schema": in_order(plain(schema.schema)),
                "strict": schema.strict,
            }
            return {"type": "json_schema", "json_schema": told}
        case "json_object":
            return {"type": "json_object"}
    return None


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
