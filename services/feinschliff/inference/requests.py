"""Bounds of what a caller may ask for, and what holds where the caller says nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from feinschliff.inference.engine import GenerationRequest
from feinschliff.inference.life import Sampling, Version
from feinschliff.kit.errors import FieldViolation, Invalid

STOPS_MAX = 16
STOP_CHARACTERS_MAX = 256
MESSAGES_MAX = 4096


def sampling_violations(sampling: Sampling, path: str) -> list[FieldViolation]:
    """Every value out of its range, with its path."""
    wrong: list[FieldViolation] = []

    def require(fine: bool, field: str, rule: str) -> None:
        if not fine:
            wrong.append(FieldViolation(f"{path}.{field}", f"{field} must be {rule}.", "OUT_OF_RANGE"))

    if sampling.temperature is not None:
        require(0 <= sampling.temperature <= 2, "temperature", f"0 to 2, not {sampling.temperature:g}")
    if sampling.top_p is not None:
        require(0 < sampling.top_p <= 1, "top_p", f"above 0 and at most 1, not {sampling.top_p:g}")
    if sampling.max_tokens is not None:
        require(sampling.max_tokens >= 1, "max_tokens", f"1 or more, not {sampling.max_tokens}")
    require(len(sampling.stop) <= STOPS_MAX, "stop", f"at most {STOPS_MAX} texts, not {len(sampling.stop)}")
    for place, stop in enumerate(sampling.stop[:STOPS_MAX]):
        fits = 1 <= len(stop) <= STOP_CHARACTERS_MAX
        require(fits, f"stop[{place}]", f"1 to {STOP_CHARACTERS_MAX} characters, not {len(stop)}")
    return wrong


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
    random_seed: Callable[[], int] = lambda: secrets.randbits(63),
) -> GenerationRequest:
    """The whole request: the caller's wishes, then the deployment's, then the model's, then the built-in ones.

    Raises:
        Invalid: CONTEXT_LENGTH_EXCEEDED where prompt and answer do not fit into the context.
    """
    sampling = asked.or_else(deployment_defaults).or_else(version.defaults if version else Sampling())
    left = context_tokens - len(prompt_ids)
    if left < 1 or (asked.max_tokens is not None and asked.max_tokens > left):
        raise _too_long(len(prompt_ids), asked.max_tokens, context_tokens)
    return GenerationRequest(
        prompt_ids=prompt_ids,
        adapter_digest=version.adapter_digest if version else "",
        max_tokens=min(left, sampling.max_tokens or left),
        temperature=1.0 if sampling.temperature is None else sampling.temperature,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        seed=random_seed() if sampling.seed is None else sampling.seed,
        stop=sampling.stop,
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
