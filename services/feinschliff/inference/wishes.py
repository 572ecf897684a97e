"""What a call says of its answers, between the API's parameters and this room's own types."""

from __future__ import annotations

from typing import Any

from feinschliff.inference.life import Sampling
from feinschliff.v1 import common_pb2

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


def read_sampling(params: common_pb2.SamplingParams) -> Sampling:
    """How tokens are drawn; what else the parameters say is left alone."""
    numbers: dict[str, Any] = {name: getattr(params, name) for name in _NUMBERS if params.HasField(name)}
    return Sampling(**numbers, stop=tuple(params.stop), logit_bias=dict(params.logit_bias))


def from_sampling(sampling: Sampling) -> common_pb2.SamplingParams:
    return common_pb2.SamplingParams(**sampling.model_dump())
