"""Messages and JSON values survive the way to the API's form and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.evaluation.messages import (
    from_message,
    from_sampling,
    from_struct,
    to_message,
    to_sampling,
    to_struct,
)
from feinschliff.formats.records import Message
from feinschliff.v1 import common_pb2 as common

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Ulm", "n": 2}'}}


@given(st.dictionaries(text, json_values, max_size=5))
def test_json_comes_back_as_it_was(values: dict[str, object]) -> None:
    assert from_struct(to_struct(values)) == values


@pytest.mark.parametrize("number", [1, -3, 2**53 - 1])
def test_whole_numbers_stay_whole(number: int) -> None:
    (back,) = from_struct(to_struct({"n": number})).values()
    assert (back, type(back)) == (number, int)
    (half,) = from_struct(to_struct({"n": 0.5})).values()
    assert math.isclose(half, 0.5)


@pytest.mark.parametrize(
    "message",
    [
        Message(role="system", content="Route."),
        Message(role="developer", content="Route."),
        Message(role="user", content="", name="anna"),
        Message(role="assistant", content="ok", weight=0),
        Message(role="assistant", content=None, tool_calls=[CALL]),
        Message(role="assistant", content="let me see", tool_calls=[CALL]),
        Message(role="tool", content="sunny", tool_call_id="c1"),
    ],
)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert from_message(to_message(message)) == message


def test_arguments_that_are_no_object_are_kept_as_written() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{broken"}}
    message = Message(role="assistant", tool_calls=[call])
    assert to_message(message).parts[0].tool_call.invalid_arguments == "{broken"
    assert from_message(to_message(message)) == message


def test_sampling_comes_back_with_what_was_set_and_nothing_else() -> None:
    sampling = common.SamplingParams(temperature=0, seed=2**60, stop=["a"], logit_bias={5: -1})
    assert to_sampling(from_sampling(sampling)) == sampling
    assert from_sampling(common.SamplingParams()) == {}
