"""One question to a model over gRPC, its answer piece by piece."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from feinschliff.cli.output import plain
from feinschliff.cli.services import Services, refusals
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

ANSWER_SECONDS_MAX = 600.0


@dataclass
class Answer:
    """What a model said, who it was, and how it ended."""

    text: str = ""
    identity: common_pb2.Identity = field(default_factory=common_pb2.Identity)
    end: pb.StreamEnd = field(default_factory=pb.StreamEnd)

    def data(self) -> dict[str, object]:
        reason = common_pb2.FinishReason.Name(self.end.finish_reason).removeprefix("FINISH_REASON_").lower()
        return {
            "text": self.text,
            "finish_reason": reason,
            "identity": plain(self.identity),
            "usage": plain(self.end.usage),
        }


def request_of(
    model: str,
    text: str,
    *,
    system: str = "",
    max_tokens: int = 256,
    temperature: float | None = None,
    seed: int | None = None,
    project: str = "",
) -> pb.ChatRequest:
    turns = [(common_pb2.ROLE_SYSTEM, system), (common_pb2.ROLE_USER, text)]
    return pb.ChatRequest(
        model=model,
        messages=[
            common_pb2.Message(role=role, parts=[common_pb2.Part(text=said)])
            for role, said in turns
            if said or role == common_pb2.ROLE_USER
        ],
        sampling=common_pb2.SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed),
        project=project,
    )


def stream(services: Services, request: pb.ChatRequest, told: Callable[[str], None] | None = None) -> Answer:
    """The whole answer; `told` hears each piece as it comes."""
    answer = Answer()
    with refusals():
        pieces = services.inference.ChatStream(pb.ChatStreamRequest(chat=request), timeout=ANSWER_SECONDS_MAX)
        for piece in pieces:
            match piece.WhichOneof("event"):
                case "identity":
                    answer.identity = piece.identity
                case "delta":
                    answer.text += piece.delta.text
                    if told is not None:
                        told(piece.delta.text)
                case "end":
                    answer.end = piece.end
    return answer


def to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
