"""What a call says of its answers, between the API's parameters and this room's own types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from feinschliff.inference.inputs import TOP_LOGPROBS_MAX
from feinschliff.inference.life import Sampling
from feinschliff.kit.errors import FieldViolation
from feinschliff.v1 import common_pb2

ANSWERS_MAX = 128

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
    """

    answers: int = 1
    logprobs: int | None = None


def read_wishes(params: common_pb2.SamplingParams) -> Wishes:
    return Wishes(
        answers=params.n if params.HasField("n") else 1,
        logprobs=params.top_logprobs if params.logprobs else None,
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
    return [FieldViolation(f"{path}.{field}", rule, "OUT_OF_RANGE") for field, rule in wrong]


def read_sampling(params: common_pb2.SamplingParams) -> Sampling:
    """How tokens are drawn; what else the parameters say is left alone."""
    numbers: dict[str, Any] = {field.name: value for field, value in params.ListFields() if field.name in _NUMBERS}
    return Sampling(**numbers, stop=tuple(params.stop), logit_bias=dict(params.logit_bias))


def from_sampling(sampling: Sampling) -> common_pb2.SamplingParams:
    return common_pb2.SamplingParams(**sampling.model_dump())
