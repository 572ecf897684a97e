"""Bounds of what a caller may ask for, and what holds where the caller says nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from feinschliff.inference.engine import GenerationRequest, Grammar
from feinschliff.inference.life import Sampling, Version
from feinschliff.kit.errors import FieldViolation, Invalid

STOPS_MAX = 16
STOP_CHARACTERS_MAX = 256
MESSAGES_MAX = 4096
BIASES_MAX = 1024

BUILT_IN = Sampling(
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
)
"""What holds where neither the caller nor the deployment nor the model says anything."""

_RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 <= value <= 2, "0 to 2"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "top_k": (lambda value: value >= 0, "0 (all) or more"),
    "min_p": (lambda value: 0 <= value <= 1, "0 to 1"),
    "presence_penalty": (lambda value: -2 <= value <= 2, "-2 to 2"),
    "frequency_penalty": (lambda value: -2 <= value <= 2, "-2 to 2"),
    "repetition_penalty": (lambda value: 0 < value <= 10, "above 0 and at most 10"),
    "max_tokens": (lambda value: value >= 1, "1 or more"),
}


def sampling_violations(sampling: Sampling, path: str) -> list[FieldViolation]:
    """Every value out of its range, with its path."""
    wrong = [(name, rule) for name, fits, rule in _bounds(sampling) if not fits]
    return [FieldViolation(f"{path}.{name}", f"{name} must be {rule}.", "OUT_OF_RANGE") for name, rule in wrong]


class _Bound(NamedTuple):
    field: str
    fits: bool
    rule: str


def _bounds(sampling: Sampling) -> Iterator[_Bound]:
    for name, (fits, rule) in _RANGES.items():
        value = getattr(sampling, name)
        if value is not None:
            yield _Bound(name, fits(value), f"{rule}, not {value:g}")
    biases, stops = len(sampling.logit_bias), len(sampling.stop)
    yield _Bound("logit_bias", biases <= BIASES_MAX, f"of at most {BIASES_MAX} tokens, not {biases}")
    for token, value in sorted(sampling.logit_bias.items())[:BIASES_MAX]:
        yield _Bound(f"logit_bias[{token}]", token >= 0, "for a token of the vocabulary")
        yield _Bound(f"logit_bias[{token}]", -100 <= value <= 100, f"-100 to 100, not {value:g}")
    yield _Bound("stop", stops <= STOPS_MAX, f"at most {STOPS_MAX} texts, not {stops}")
    for place, stop in enumerate(sampling.stop[:STOPS_MAX]):
        fits_in = 1 <= len(stop) <= STOP_CHARACTERS_MAX
        yield _Bound(f"stop[{place}]", fits_in, f"1 to {STOP_CHARACTERS_MAX} characters, not {len(stop)}")


def unknown_biases(sampling: Sampling, vocabulary_tokens: int, path: str) -> list[FieldViolation]:
    """Every token of `logit_bias` that the model does not have."""
    return [
        FieldViolation(
            f"{path}.logit_bias[{token}]",
            f"Token ids of this model are 0 to {vocabulary_tokens - 1}, not {token}.",
            "OUT_OF_RANGE",
        )
        for token in sorted(sampling.logit_bias)
        if token >= vocabulary_tokens
    ]


def refuse(violations: Sequence[FieldViolation]) -> None:
    """Raises Invalid REQUEST_INVALID where there are any, naming each."""
    if violations:
        message = " ".join(violation.description for violation in violations[:5])
        raise Invalid("REQUEST_INVALID", message, fields=violations)


def generation(
    prompt_ids: Sequence[int],
    asked: Sampling,
    deployment_defaults: Sampling,
    version: Version | None,
    *,
    context_tokens: int,
    answer_tokens: int = 0,
    logprobs: int | None = None,
    grammar: Grammar | None = None,
    shown_tokens: tuple[str, ...] = (),
    random_seed: Callable[[], int] = lambda: secrets.randbits(63),
) -> GenerationRequest:
    """The whole request: the caller's wishes, then the deployment's, then the model's, then the built-in ones.

    Args:
        answer_tokens: longest answer where none of them says one; 0: what the context has left.

    Raises:
        Invalid: CONTEXT_LENGTH_EXCEEDED where prompt and answer do not fit into the context.
    """
    sampling = asked.or_else(deployment_defaults).or_else(version.defaults if version else Sampling()).or_else(BUILT_IN)
    left = context_tokens - len(prompt_ids)
    if left < 1 or (asked.max_tokens is not None and asked.max_tokens > left):
        raise _too_long(len(prompt_ids), asked.max_tokens, context_tokens)
    seed = random_seed() if sampling.seed is None else sampling.seed
    drawn = sampling.model_dump() | {
        "max_tokens": min(left, sampling.max_tokens or answer_tokens or left),
        "seed": seed,
    }
    return GenerationRequest(
        **drawn,
        logprobs=logprobs,
        grammar=grammar,
        shown_tokens=shown_tokens,
        prompt_ids=prompt_ids,
        adapter_digest=version.adapter_digest if version else "",
        stop_token_ids=version.stop_token_ids if version else (),
    )


def _too_long(prompt_tokens: int, max_tokens: int | None, context_tokens: int) -> Invalid:
    wanted = f" and {max_tokens} are asked for" if max_tokens is not None else ""
    message = f"The model's context has {context_tokens} tokens; the conversation takes {prompt_tokens}{wanted}."
    field = "messages" if prompt_tokens >= context_tokens else "sampling.max_tokens"
    return Invalid(
        "CONTEXT_LENGTH_EXCEEDED",
        message,
        fields=[FieldViolation(field, message, "CONTEXT_LENGTH_EXCEEDED")],
        advice=["Shorten the conversation, or ask for fewer tokens."],
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens if max_tokens is not None else "",
        context_tokens=context_tokens,
    )
