"""What a chat completion can carry beside its text, through the unmodified `openai` package."""

from __future__ import annotations

import json
from typing import Any

import openai as sdk
import pytest
from openai import OpenAI

from feinschliff.v1 import common_pb2
from tests.contract.gateway.asking import ask
from tests.contract.gateway.harness import Gateway

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
LOOK = {"type": "function", "function": {"name": "look", "description": "d", "parameters": PARAMETERS, "strict": True}}
PING = {"type": "function", "function": {"name": "ping"}}


@pytest.fixture(autouse=True)
def _served(gateway: Gateway) -> None:
    gateway.backends.inference.serve()


def test_several_choices_come_whole_and_as_a_stream(openai: OpenAI, gateway: Gateway) -> None:
    whole = ask(openai, n=3)
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [
        (index, "you said: hello there") for index in range(3)
    ]
    assert gateway.backends.inference.requests[-1].sampling.n == 3
    chunks = list(ask(openai, n=3, stream=True))
    for index in range(3):
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in mine) == "you said: hello there"
        assert [choice.finish_reason for choice in mine] == [None] * (len(mine) - 1) + ["stop"]


def test_log_probabilities_are_those_of_the_tokens_that_are_shown(openai: OpenAI) -> None:
    whole = ask(openai, logprobs=True, top_logprobs=1).choices[0]
    content = whole.logprobs.content
    assert "".join(one.token for one in content) == whole.message.content
    assert bytes(byte for one in content for byte in one.bytes).decode() == whole.message.content
    assert {one.logprob for one in content} == {-0.5}
    assert [(other.logprob, other.bytes) for other in content[0].top_logprobs] == [(-9999.0, None)]
    chunks = list(ask(openai, logprobs=True, top_logprobs=1, stream=True))
    told = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert told == content
    assert ask(openai).choices[0].logprobs is None


def test_the_form_of_an_answer_goes_on_with_the_order_of_its_properties(openai: OpenAI, gateway: Gateway) -> None:
    schema = {"type": "object", "properties": {"b": {"properties": {"y": {}, "x": {}}}, "properties": {}, "a": {}}}
    ask(openai, response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}})
    sent = gateway.backends.inference.requests[-1].sampling.response_format.json_schema
    assert (sent.name, sent.strict) == ("s", True)
    assert list(sent.schema["propertyOrdering"]) == ["b", "properties", "a"]
    assert list(sent.schema["properties"]["b"]["propertyOrdering"]) == ["y", "x"]
    ask(openai, response_format={"type": "json_object"})
    assert gateway.backends.inference.requests[-1].sampling.response_format.WhichOneof("format") == "json_object"
    ask(openai, response_format={"type": "text"})
    assert not gateway.backends.inference.requests[-1].sampling.HasField("response_format")


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, "response_format.json_schema.name"),
        ({"type": "xml"}, "response_format.type"),
    ],
)
def test_a_form_that_says_nothing_is_refused_by_its_path(openai: OpenAI, form: dict[str, Any], param: str) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        ask(openai, response_format=form)
    assert caught.value.param == param


def test_tools_go_on_with_the_order_of_their_parameters(openai: OpenAI, gateway: Gateway) -> None:
    ask(openai, tools=[LOOK, PING], parallel_tool_calls=False)
    request = gateway.backends.inference.requests[-1]
    look, ping = request.tools
    assert (look.name, look.description, look.strict, request.single_tool_call) == ("look", "d", True, True)
    assert list(look.parameters["propertyOrdering"]) == ["city", "days"]
    assert (ping.name, ping.HasField("parameters")) == ("ping", False)
    assert not request.HasField("tool_choice")


@pytest.mark.parametrize(
    ("choice", "mode", "tools"),
    [
        ("none", "NONE", ["look", "ping"]),
        ("auto", "AUTO", ["look", "ping"]),
        ("required", "REQUIRED", ["look", "ping"]),
        ({"type": "function", "function": {"name": "ping"}}, "FUNCTION", ["look", "ping"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "ping"}}]},
            },
            "REQUIRED",
            ["ping"],
        ),
    ],
)
def test_the_choice_among_tools_goes_on(
    openai: OpenAI, gateway: Gateway, choice: Any, mode: str, tools: list[str]
) -> None:
    ask(openai, tools=[LOOK, PING], tool_choice=choice)
    request = gateway.backends.inference.requests[-1]
    assert request.tool_choice.mode == common_pb2.ToolChoice.Mode.Value(f"MODE_{mode}")
    assert request.tool_choice.function == ("ping" if mode == "FUNCTION" else "")
    assert [tool.name for tool in request.tools] == tools


def test_calls_come_whole_and_as_a_stream(openai: OpenAI) -> None:
    whole = ask(openai, "call", tools=[LOOK]).choices[0]
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
    (call,) = whole.message.tool_calls
    assert (call.id, call.type, call.function.name) == ("call_1", "function", "look")
    assert call.function.arguments == '{"city":"Ulm","days":3}'
    deltas = [chunk.choices[0] for chunk in ask(openai, "call", tools=[LOOK], stream=True)]
    pieces = [piece for one in deltas for piece in one.delta.tool_calls or []]
    assert [(piece.index, piece.id, piece.function.name) for piece in pieces] == [
        (0, "call_1", "look"),
        (0, None, None),
        (0, None, None),
    ]
    assert json.loads("".join(piece.function.arguments for piece in pieces)) == {"city": "Ulm", "days": 3}
    assert deltas[-1].finish_reason == "tool_calls"


def test_a_function_that_had_to_be_called_ends_with_stop(openai: OpenAI) -> None:
    forced = {"type": "function", "function": {"name": "look"}}
    assert ask(openai, "call", tools=[LOOK], tool_choice=forced).choices[0].finish_reason == "stop"
    chunks = list(ask(openai, "call", tools=[LOOK], tool_choice=forced, stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "unsupported_parameter", "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "invalid_value", "tools[0].function.name"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].function"),
        ({"tools": [PING] * 129}, "array_above_max_length", "tools"),
        (
            {"tools": [PING], "tool_choice": {"type": "function", "function": {"name": "look"}}},
            "invalid_value",
            "tool_choice",
        ),
        ({"tools": [PING], "tool_choice": {"type": "function"}}, "invalid_value", "tool_choice"),
    ],
)
def test_tools_that_make_no_sense_are_refused_by_their_path(
    openai: OpenAI, gateway: Gateway, options: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        ask(openai, **options)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert gateway.backends.inference.requests == []
