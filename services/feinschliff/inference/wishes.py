"""What a call says of its answers, between the API's parameters and this room's own types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from feinschliff.formats.schemas import in_order
from feinschliff.inference.forms import Form, Schema, form_of
from feinschliff.inference.inputs import TOP_LOGPROBS_MAX
from feinschliff.inference.life import Sampling
from feinschliff.inference.tools import Mode, Tool, Toolbox
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.kit.structs import plain
from feinschliff.v1 import common_pb2, inference_pb2

ANSWERS_MAX = 128
_NAME_CHARACTERS_MAX = 64

_NUMBERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "max_tokens",
    "seed",
)


@dataclass(frozen=True)
class Wishes:
    """What one call wants of its answers beside how they are drawn; a deployment has no say in it.

    Args:
        answers: drawn to the same prompt, 1 to 128.
        logprobs: alternatives told beside each token's log-probability, 0 to 20; None tells neither.
        form: that each answer has; None is free text.
    """

    answers: int = 1
    logprobs: int | None = None
    form: Form | None = None


def read_wishes(params: common_pb2.SamplingParams, path: str) -> Wishes:
    """
    Raises:
        Invalid: REQUEST_INVALID where a schema is too long.
    """
    return Wishes(
        answers=params.n if params.HasField("n") else 1,
        logprobs=params.top_logprobs if params.logprobs else None,
        form=response_form(params.response_format, f"{path}.response_format"),
    )


def wish_violations(params: common_pb2.SamplingParams, path: str) -> list[FieldViolation]:
    """Every wish out of its range, with its path."""
    wrong = []
    if params.HasField("n") and not 1 <= params.n <= ANSWERS_MAX:
        wrong.append(("n", f"n must be 1 to {ANSWERS_MAX}, not {params.n}."))
    if not 0 <= params.top_logprobs <= TOP_LOGPROBS_MAX:
        wrong.append(("top_logprobs", f"top_logprobs must be 0 to {TOP_LOGPROBS_MAX}, not {params.top_logprobs}."))
    elif params.top_logprobs and not params.logprobs:
        wrong.append(("top_logprobs", "top_logprobs needs logprobs to be true."))
    name = params.response_format.json_schema.name
    if len(name) > _NAME_CHARACTERS_MAX:
        rule = f"A name has at most {_NAME_CHARACTERS_MAX} characters, not {len(name)}."
        wrong.append(("response_format.json_schema.name", rule))
    return [FieldViolation(f"{path}.{field}", rule, "OUT_OF_RANGE") for field, rule in wrong]


def read_sampling(params: common_pb2.SamplingParams) -> Sampling:
    """How tokens are drawn; what else the parameters say is left alone."""
    numbers: dict[str, Any] = {field.name: value for field, value in params.ListFields() if field.name in _NUMBERS}
    return Sampling(**numbers, stop=tuple(params.stop), logit_bias=dict(params.logit_bias))


def from_sampling(sampling: Sampling) -> common_pb2.SamplingParams:
    return common_pb2.SamplingParams(**sampling.model_dump())


def response_form(wanted: common_pb2.ResponseFormat, path: str) -> Form | None:
    """
    Raises:
        Invalid: REQUEST_INVALID.
    """
    match wanted.WhichOneof("format"):
        case "json_object":
            return form_of(Schema(path, '{"type":"object"}', strict=True))
        case "json_schema":
            given, where = wanted.json_schema, f"{path}.json_schema"
            return form_of(Schema.of(in_order(plain(given.schema)), f"{where}.schema", strict=given.strict))
    return None


_MODES: dict[int, Mode] = {
    common_pb2.ToolChoice.MODE_UNSPECIFIED: "auto",
    common_pb2.ToolChoice.MODE_NONE: "none",
    common_pb2.ToolChoice.MODE_AUTO: "auto",
    common_pb2.ToolChoice.MODE_REQUIRED: "required",
    common_pb2.ToolChoice.MODE_FUNCTION: "function",
}


def read_tools(request: inference_pb2.ChatRequest) -> Toolbox:
    """
    Raises:
        Invalid: REQUEST_INVALID for a mode that this version does not know.
    """
    mode = _MODES.get(request.tool_choice.mode)
    if mode is None:
        rule = f"tool_choice.mode {request.tool_choice.mode} is not known."
        raise Invalid("REQUEST_INVALID", rule, fields=[FieldViolation("tool_choice.mode", rule, "OUT_OF_RANGE")])
    tools = tuple(to_tools(request.tools))
    return Toolbox(tools, mode, request.tool_choice.function, single=request.single_tool_call)


def to_tools(tools: Iterable[common_pb2.Tool]) -> Iterator[Tool]:
    for tool in tools:
        parameters = in_order(plain(tool.parameters)) if tool.HasField("parameters") else None
        yield Tool(tool.name, tool.description, parameters, tool.strict)
