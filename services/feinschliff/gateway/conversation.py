"""The body of a chat completion: what is served, what is refused by name, and what it asks of inference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import orjson
from google.protobuf.struct_pb2 import Struct
from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from feinschliff.gateway.answers import Shape
from feinschliff.gateway.bodies import Body, Metadata, problem
from feinschliff.gateway.errors import invalid, required, unsupported
from feinschliff.gateway.forms import ResponseFormat
from feinschliff.gateway.tools import TOOLS_MAX, Choice, Tool, ToolChoice, set_tools
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

STOP_TEXTS_MAX = 4
SEED_BOUND = 2**63
TOKEN_ID_BOUND = 2**31
SMALLEST_TOP_P = 1e-6  # 0 is taken at OpenAI and means the likeliest token alone; inference wants more than 0

ROLES: Mapping[str, common_pb2.Role.ValueType] = {
    "system": common_pb2.ROLE_SYSTEM,
    "developer": common_pb2.ROLE_DEVELOPER,
    "user": common_pb2.ROLE_USER,
    "assistant": common_pb2.ROLE_ASSISTANT,
    "tool": common_pb2.ROLE_TOOL,
    "function": common_pb2.ROLE_FUNCTION,
}

NEUTRAL: Mapping[str, tuple[JsonValue, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "moderation": (),
}
"""Parameters that this version does not serve, with the values that ask for nothing; null always asks for nothing."""


def _part(given: object) -> object:
    """A content part that is no text is refused by name here, so that the problem's path stays short."""
    if isinstance(given, dict) and given.get("type") not in ("text", "refusal"):
        kind = given.get("type")
        if kind in ("image_url", "input_audio", "file"):
            raise problem("unsupported_parameter", f"content parts of type '{kind}' are not served by this version")
        raise problem("invalid_value", f"'{str(kind)[:40]}' is no type of a content part; text is served")
    return given


class TextPart(Body):
    type: Literal["text", "refusal"]
    text: str = ""
    refusal: str = ""

    @property
    def words(self) -> str:
        return self.text if self.type == "text" else self.refusal


class FunctionCall(Body):
    name: str = Field(min_length=1, max_length=64)
    arguments: str = ""


class ToolCall(Body):
    id: str = Field(min_length=1)
    type: Literal["function"] = "function"
    function: FunctionCall


Part = Annotated[TextPart, BeforeValidator(_part)]


def _as_parts(given: object) -> object:
    return [{"type": "text", "text": given}] if isinstance(given, str) else given


class Turn(Body):
    """One message of the conversation; a plain string is one part of text."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[list[Part] | None, BeforeValidator(_as_parts)] = None
    name: str | None = Field(None, max_length=64)
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: JsonValue = None
    audio: None = None
    function_call: FunctionCall | None = None


def as_stops(given: object) -> object:
    return [given] if isinstance(given, str) else given


def checked_seed(value: int | None) -> int | None:
    if value is not None and not -SEED_BOUND <= value < SEED_BOUND:
        raise problem("invalid_value", "must fit into 64 bits")
    return value


def checked_biases(value: dict[str, float] | None) -> dict[str, float] | None:
    for token in value or {}:
        if not token.isdecimal() or int(token) >= TOKEN_ID_BOUND:
            raise problem("invalid_value", f"'{token[:40]}' is no token id")
    return value


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatBody(Body):
    """`POST /v1/chat/completions`."""

    model: str = Field(min_length=1, max_length=1024)
    messages: list[Turn] = Field(min_length=1, max_length=4096)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    stop: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=STOP_TEXTS_MAX)] | None,
        BeforeValidator(as_stops),
    ] = None
    seed: Annotated[int | None, AfterValidator(checked_seed)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = Field(None, max_length=64)
    metadata: Metadata = None
    parallel_tool_calls: bool | None = None
    # Nothing that a caller can see depends on these.
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: JsonValue = None
    prediction: JsonValue = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    # Checked, and refused where they ask for something; see NEUTRAL.
    n: int | None = Field(None, ge=1, le=128)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[str, float] | None, AfterValidator(checked_biases)] = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool] | None, Field(max_length=TOOLS_MAX)] = None
    tool_choice: ToolChoice | None = None
    functions: JsonValue = None
    function_call: JsonValue = None
    audio: JsonValue = None
    modalities: JsonValue = None
    web_search_options: JsonValue = None
    moderation: JsonValue = None
    store: bool | None = None
    skip_guards: bool | None = None  # our own

    def check_served(self) -> None:
        """Raises ApiError 400 unsupported_parameter for the first parameter that would change the answer."""
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.")
        for name, neutral in NEUTRAL.items():
            value = getattr(self, name)
            if value is not None and value not in neutral:
                raise unsupported(name, f"The parameter '{name}' is not served by this version; leave it out.")
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")

    def to_request(self, model: str, project: str, completion: str) -> pb.ChatRequest:
        """
        Args:
            project: on whose behalf, `projects/{project}`.
            completion: the name that the exchange gets where it is stored.
        """
        request = pb.ChatRequest(
            model=model,
            project=project,
            messages=[_message(turn, f"messages[{number}]") for number, turn in enumerate(self.messages)],
            sampling=self._sampling(),
            user=(self.safety_identifier or self.user or "")[:64],
            metadata=self.metadata or {},
            store=self.store,
            completion=completion,
            skip_guards=bool(self.skip_guards),
            single_tool_call=self.parallel_tool_calls is False,
        )
        set_tools(request, self.tools or [], self.tool_choice)
        return request

    @property
    def shape(self) -> Shape:
        """How the answer is put, as far as the request decides it."""
        return Shape(
            choices=self.n or 1,
            logprobs=bool(self.logprobs),
            is_forced=isinstance(self.tool_choice, Choice) and self.tool_choice.type == "function",
            include_usage=self.stream_options is not None and self.stream_options.include_usage,
        )

    def _sampling(self) -> common_pb2.SamplingParams:
        """What was said, and nothing else: the rest is the deployment's and the model's to decide."""
        params = common_pb2.SamplingParams(stop=self.stop or [])
        if self.temperature is not None:
            params.temperature = self.temperature
        if self.top_p is not None:
            params.top_p = max(self.top_p, SMALLEST_TOP_P)
        if (tokens := self.max_completion_tokens or self.max_tokens) is not None:
            params.max_tokens = tokens
        for name in ("seed", "presence_penalty", "frequency_penalty", "n", "logprobs", "top_logprobs"):
            if (value := getattr(self, name)) is not None:
                setattr(params, name, value)
        if self.response_format is not None and (form := self.response_format.to_message()) is not None:
            params.response_format.CopyFrom(form)
        for token, bias in (self.logit_bias or {}).items():
            params.logit_bias[int(token)] = bias
        return params


def _message(turn: Turn, path: str) -> common_pb2.Message:
    if turn.function_call is not None:
        raise unsupported(f"{path}.function_call", f"'{path}.function_call' is not served; use 'tool_calls'.")
    parts = [common_pb2.Part(text=part.words) for part in turn.content or []]
    if turn.role == "tool":
        if not turn.tool_call_id:
            raise required(f"{path}.tool_call_id")
        said = "".join(part.words for part in turn.content or [])
        parts = [common_pb2.Part(tool_result=common_pb2.ToolResult(tool_call_id=turn.tool_call_id, text=said))]
    for number, call in enumerate(turn.tool_calls or []):
        parts.append(common_pb2.Part(tool_call=_tool_call(call, f"{path}.tool_calls[{number}].function.arguments")))
    if not parts and turn.role != "assistant":
        raise required(f"{path}.content")
    return common_pb2.Message(role=ROLES[turn.role], parts=parts, name=turn.name or "")


def _tool_call(call: ToolCall, path: str) -> common_pb2.ToolCall:
    try:
        given = orjson.loads(call.function.arguments or "{}")
        arguments = Struct()
        arguments.update(given)
    except (ValueError, AttributeError, TypeError):
        raise invalid(path, f"'{path}' is not the text of a JSON object.") from None
    return common_pb2.ToolCall(id=call.id, name=call.function.name, arguments=arguments)


def param_of(path: str) -> str | None:
    """The path in the HTTP body for a path in ChatRequest."""
    ours = path.removeprefix("chat.")
    if ours.startswith("sampling."):
        return {"sampling.max_tokens": "max_completion_tokens"}.get(ours, ours.removeprefix("sampling."))
    if ours.startswith("tool_choice."):
        return "tool_choice"
    ours = re.sub(r"^(tools\[\d+\])\.", r"\1.function.", ours)
    return ours.replace(".parts", ".content") or None
