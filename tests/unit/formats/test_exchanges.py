"""How large an exchange is as the log counts it, and when it has to be counted."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from feinschliff.formats.exchanges import content_bytes, content_of, may_exceed
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import ingestion_pb2 as pb

MANY: dict[str, Any] = {"flags": [True] * 500, "nothing": [None] * 500, "empty": [{}] * 500, "number": [0.1] * 500}


def struct() -> Struct:
    made = Struct()
    made.update(MANY)
    return made


TURN = common.Message(role=common.ROLE_USER, parts=[common.Part(text="")])
CALL = common.Part(tool_call=common.ToolCall(id="", name="", arguments=struct()))


@pytest.mark.parametrize(
    "completion",
    [
        pb.Completion(messages=[common.Message(parts=[common.Part(text="\x01" * 5000)])]),
        pb.Completion(messages=[TURN] * 1000),
        pb.Completion(messages=[common.Message()] * 1000),
        pb.Completion(messages=[common.Message(parts=[common.Part(text="")] * 1000)]),
        pb.Completion(messages=[common.Message(parts=[CALL])]),
        pb.Completion(tools=[common.Tool(name="f", strict=True)] * 500),
        pb.Completion(identity=common.Identity(model_version="m"), usage=common.TokenUsage(prompt_tokens=1)),
        pb.Completion(sampling=common.SamplingParams(stop=[""] * 100, logit_bias=dict.fromkeys(range(500), 0.5))),
    ],
)
def test_what_is_not_counted_is_never_too_large(completion: pb.Completion) -> None:
    assert may_exceed(completion, content_bytes(content_of(completion)) - 1)


def test_ordinary_exchanges_are_not_counted() -> None:
    turn = common.Message(role=common.ROLE_USER, parts=[common.Part(text="x" * 100_000)])
    assert not may_exceed(pb.Completion(messages=[turn]), 2 * 1024**2)


def test_what_is_searched_does_not_count() -> None:
    assert content_of(pb.Completion(model="m", user="u", metadata={"a": "b"}, latency_seconds=1)) == {
        "latency_seconds": 1.0
    }
