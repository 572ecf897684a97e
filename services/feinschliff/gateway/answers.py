"""Inference's answers as chat completions and as chunks of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

from feinschliff.gateway.errors import SERVER, ApiError
from feinschliff.gateway.likelihoods import ShownTokens, logprobs_of, shown_tokens
from feinschliff.gateway.streams import data_event
from feinschliff.gateway.tools import call_chunk
from feinschliff.kit.structs import plain
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

FINISH: Mapping[int, str] = {
    common_pb2.FINISH_REASON_STOP: "stop",
    common_pb2.FINISH_REASON_LENGTH: "length",
    common_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
    common_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
}
DONE = data_event(b"[DONE]")


@dataclass(frozen=True)
class Shape:
    """How an answer is put, as far as the request decides it."""

    choices: int = 1
    logprobs: bool = False
    include_usage: bool = False
    is_forced: bool = False  # one function had to be called


@dataclass(frozen=True)
class Envelope:
    """What all chunks of one answer share; `model` is the name as it was asked for."""

    id: str
    created: int
    model: str

    def completion(self, answer: pb.ChatResponse, shape: Shape) -> dict[str, JsonValue]:
        first = pb.ChatChoice(message=answer.message, finish_reason=answer.finish_reason)
        choices: list[JsonValue] = [_choice(choice, shape) for choice in answer.choices or [first]]
        return self._of("chat.completion", choices, answer.identity) | {"usage": usage_of(answer.usage)}

    def chunk(
        self,
        delta: Mapping[str, JsonValue],
        finish: str | None,
        identity: common_pb2.Identity,
        *,
        index: int = 0,
        logprobs: JsonValue = None,
    ) -> dict[str, JsonValue]:
        choice: dict[str, JsonValue] = {
            "index": index,
            "delta": dict(delta),
            "logprobs": logprobs,
            "finish_reason": finish,
        }
        return self._of("chat.completion.chunk", [choice], identity)

    def usage_chunk(self, usage: common_pb2.TokenUsage, identity: common_pb2.Identity) -> dict[str, JsonValue]:
        return self._of("chat.completion.chunk", [], identity) | {"usage": usage_of(usage)}

    def _of(self, kind: str, choices: list[JsonValue], identity: common_pb2.Identity) -> dict[str, JsonValue]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": fingerprint(identity),
            "service_tier": "default",
        }


class Growing:
    """One choice of a stream: inference's deltas in, chunks out."""

    def __init__(self, envelope: Envelope, index: int, identity: common_pb2.Identity, shape: Shape) -> None:
        self._envelope = envelope
        self._index = index
        self._identity = identity
        self._shape = shape
        self._tokens = ShownTokens() if shape.logprobs else None
        self.is_finished = False

    def opening(self) -> dict[str, JsonValue]:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def chunks(self, delta: pb.ChatDelta) -> Iterator[dict[str, JsonValue]]:
        tokens = self._tokens.push(delta.text, delta.logprobs) if self._tokens is not None else []
        if delta.text or tokens:
            yield self._chunk({"content": delta.text}, logprobs=logprobs_of(tokens) if tokens else None)
        if delta.HasField("tool_call"):
            yield self._chunk({"tool_calls": [call_chunk(delta.tool_call)]})
        if delta.finish_reason:
            yield self.end(delta.finish_reason)

    def end(self, reason: common_pb2.FinishReason.ValueType) -> dict[str, JsonValue]:
        self.is_finished = True
        return self._chunk({}, finish=finish_of(reason, is_forced=self._shape.is_forced))

    def _chunk(
        self, delta: Mapping[str, JsonValue], *, finish: str | None = None, logprobs: JsonValue = None
    ) -> dict[str, JsonValue]:
        return self._envelope.chunk(delta, finish, self._identity, index=self._index, logprobs=logprobs)


async def chunks(
    envelope: Envelope,
    first: pb.ChatStreamResponse,
    rest: AsyncIterator[pb.ChatStreamResponse],
    identity: common_pb2.Identity,
    shape: Shape,
) -> AsyncIterator[bytes]:
    """The stream as events: the roles, what is said as it comes, the finish reasons, usage where asked for, `[DONE]`.

    Raises:
        ApiError: the answer broke off.
    """

    def event(chunk: dict[str, JsonValue]) -> bytes:
        if shape.include_usage:
            chunk.setdefault("usage", None)
        return data_event(orjson.dumps(chunk))

    choices = [Growing(envelope, index, identity, shape) for index in range(shape.choices)]
    for choice in choices:
        yield event(choice.opening())
    async for response in _chained(first, rest):
        match response.WhichOneof("event"):
            case "delta":
                for chunk in choices[response.delta.index].chunks(response.delta):
                    yield event(chunk)
            case "end":
                if not choices[0].is_finished:
                    yield event(choices[0].end(response.end.finish_reason))
                if shape.include_usage:
                    yield event(envelope.usage_chunk(response.end.usage, identity))
                yield DONE
                return
    raise ApiError(500, "The answer broke off before its end. Ask again.", type=SERVER, code="answer_incomplete")


def finish_of(reason: common_pb2.FinishReason.ValueType, *, is_forced: bool = False) -> str:
    """OpenAI's word, by which a function that had to be called is an ordinary end; what broke off is an error.

    Raises:
        ApiError: 500 where the engine failed, 503 where it was stopped.
    """
    if reason == common_pb2.FINISH_REASON_ERROR:
        raise ApiError(500, "The engine failed while it answered. Ask again.", type=SERVER, code="engine_failed")
    if reason == common_pb2.FINISH_REASON_CANCELLED:
        raise ApiError(503, "The answer was cut off: the engine is stopping. Ask again.", type=SERVER, code="cancelled")
    if reason == common_pb2.FINISH_REASON_TOOL_CALLS and is_forced:
        return "stop"
    return FINISH.get(reason, "stop")


def usage_of(usage: common_pb2.TokenUsage) -> dict[str, JsonValue]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def fingerprint(identity: common_pb2.Identity) -> str:
    """What exactly answered, short: base, adapter and template; equal where all three are."""
    digests = (identity.base_digest, identity.adapter_digest, identity.template_hash)
    return "fp_" + "_".join(digest.removeprefix("sha256:")[:8] or "none" for digest in digests)


def _choice(choice: pb.ChatChoice, shape: Shape) -> dict[str, JsonValue]:
    return {
        "index": choice.index,
        "message": _message(choice.message),
        "logprobs": logprobs_of(shown_tokens(choice)) if shape.logprobs else None,
        "finish_reason": finish_of(choice.finish_reason, is_forced=shape.is_forced),
    }


def _message(message: common_pb2.Message) -> dict[str, JsonValue]:
    calls = [_tool_call(part.tool_call) for part in message.parts if part.HasField("tool_call")]
    text = "".join(part.text for part in message.parts)
    said: dict[str, JsonValue] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": None,
        "annotations": [],
    }
    return said | ({"tool_calls": calls} if calls else {})


def _tool_call(call: common_pb2.ToolCall) -> JsonValue:
    arguments = call.invalid_arguments or orjson.dumps(plain(call.arguments)).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


async def _chained(
    first: pb.ChatStreamResponse, rest: AsyncIterator[pb.ChatStreamResponse]
) -> AsyncIterator[pb.ChatStreamResponse]:
    yield first
    async for response in rest:
        yield response
