"""Texts and tokens that calls bring: what is refused, always by its path in the request."""

from __future__ import annotations

from collections.abc import Sequence

from feinschliff.formats.records import Message
from feinschliff.inference.abilities import no_vectors
from feinschliff.inference.judging import TEXTS_MAX
from feinschliff.inference.requests import refuse
from feinschliff.inference.scores import AnswerTokens
from feinschliff.kit.errors import FieldViolation, Invalid

TOP_LOGPROBS_MAX = 20
VECTORS_BYTES_MAX = 15 * 1024 * 1024
"""Of one answer; a message may have 16 MiB."""


def refuse_unknown_ids(ids: Sequence[int], vocabulary_tokens: int, path: str) -> None:
    """
    Raises:
        Invalid: TOKEN_ID_UNKNOWN, every wrong one named.
    """
    if wrong := [place for place, token in enumerate(ids) if not 0 <= token < vocabulary_tokens]:
        name = f"{path}[{wrong[0]}]"
        message = f"Token ids of this model are 0 to {vocabulary_tokens - 1}; {name} is {ids[wrong[0]]}."
        fields = [FieldViolation(f"{path}[{place}]", message, "OUT_OF_RANGE") for place in wrong]
        raise Invalid("TOKEN_ID_UNKNOWN", message, fields=fields, vocabulary_tokens=vocabulary_tokens)


def refuse_long(tokens: int, context_tokens: int, path: str) -> None:
    """
    Raises:
        Invalid: CONTEXT_LENGTH_EXCEEDED.
    """
    if tokens > context_tokens:
        message = f"The model reads {context_tokens} tokens; {path} has {tokens}."
        raise Invalid(
            "CONTEXT_LENGTH_EXCEEDED",
            message,
            fields=[FieldViolation(path, message, "CONTEXT_LENGTH_EXCEEDED")],
            advice=["Shorten the text."],
            prompt_tokens=tokens,
            max_tokens="",
            context_tokens=context_tokens,
        )


def refuse_wordless(ids: Sequence[int], path: str) -> None:
    """
    Raises:
        Invalid: REQUEST_INVALID for no token at all.
    """
    if not ids:
        refuse([FieldViolation(path, f"{path} has no token; a model continues at least one.", "OUT_OF_RANGE")])


def refuse_full(tokens: int, context_tokens: int, path: str) -> None:
    """
    Raises:
        Invalid: CONTEXT_LENGTH_EXCEEDED where a prompt leaves no room for an answer.
    """
    refuse_long(tokens, context_tokens - 1, path)


def refuse_top_logprobs(top_logprobs: int) -> None:
    """
    Raises:
        Invalid: REQUEST_INVALID.
    """
    if not 0 <= top_logprobs <= TOP_LOGPROBS_MAX:
        message = f"top_logprobs must be 0 to {TOP_LOGPROBS_MAX}, not {top_logprobs}."
        refuse([FieldViolation("top_logprobs", message, "OUT_OF_RANGE")])


def refuse_unanswered(messages: Sequence[Message], path: str) -> None:
    """
    Raises:
        Invalid: MESSAGES_INVALID where the last turn is no answer.
    """
    if not messages or messages[-1].role != "assistant":
        message = "The last turn must be the assistant's: that is what is scored."
        raise Invalid("MESSAGES_INVALID", message, fields=[FieldViolation(path, message, "ROLE_UNFIT")])


def refuse_unscorable(text: AnswerTokens, path: str) -> None:
    """
    Raises:
        Invalid: REQUEST_INVALID where nothing stands before the only token that could be scored.
    """
    if len(text.token_ids) <= text.first:
        message = "A token is scored by what stands before it; bring a prompt, or at least two tokens."
        refuse([FieldViolation(path, message, "OUT_OF_RANGE")])


def refuse_several(texts: int, rows: int) -> None:
    """What is to become vectors: so many texts, or so many rows of tokens.

    Raises:
        Invalid: REQUEST_INVALID.
    """
    path, count = ("tokens", rows) if rows else ("texts", texts)
    if texts and rows:
        refuse([FieldViolation("tokens", "Bring texts or tokens, not both.", "INPUT_TWICE")])
    if not 1 <= count <= TEXTS_MAX:
        refuse([FieldViolation(path, f"{path} must be 1 to {TEXTS_MAX} texts, not {count}.", "OUT_OF_RANGE")])


def refuse_many_numbers(vectors: int, dimensions: int, path: str) -> None:
    """
    Raises:
        Invalid: REQUEST_INVALID where so many vectors do not fit into one answer.
    """
    fit = VECTORS_BYTES_MAX // (4 * dimensions)
    if vectors > fit:
        message = f"Vectors of {dimensions} numbers fit into one answer {fit} times, not {vectors} times."
        refuse([FieldViolation(path, message, "OUT_OF_RANGE")])


def refuse_dimensions(dimensions: int, allowed: Sequence[int], model: str) -> None:
    """
    Args:
        allowed: lengths that vectors of the model may have, the whole one last; none where its engine has no vectors.

    Raises:
        Invalid: DIMENSIONS_UNSUPPORTED.
        Unserved: ENGINE_UNSERVED.
    """
    if not allowed:
        raise no_vectors(model)
    if dimensions and dimensions not in allowed:
        few = ", ".join(map(str, allowed[-8:]))
        message = f"Vectors of {model} have {allowed[-1]} numbers and cannot have {dimensions}; it allows {few}."
        if isinstance(allowed, range):
            message = f"Vectors of {model} can have {allowed[0]} to {allowed[-1]} numbers, not {dimensions}."
        raise Invalid(
            "DIMENSIONS_UNSUPPORTED",
            message,
            fields=[FieldViolation("dimensions", message, "OUT_OF_RANGE")],
            advice=["Leave out dimensions, or cut and scale the vectors yourself."],
            model=model,
            dimensions=dimensions,
            dimensions_max=allowed[-1],
        )


def missing_input(path: str) -> Invalid:
    message = f"{path} must be set."
    return Invalid("REQUEST_INVALID", message, fields=[FieldViolation(path, message, "INPUT_MISSING")])
