"""Texts before a head: which are read in one pass, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

from feinschliff.formats.heads import HeadFacts
from feinschliff.inference.requests import refuse
from feinschliff.kit.errors import FieldViolation, Invalid, WrongState

TEXTS_MAX = 2048
PASS_TOKENS_MAX = 2048
"""Tokens read between two steps of those who chat, filled-up places included; a longer text is read alone."""


def refuse_texts(texts: Sequence[str], top: int) -> None:
    """
    Raises:
        Invalid: REQUEST_INVALID.
    """
    wrong = []
    if not 1 <= len(texts) <= TEXTS_MAX:
        message = f"texts must be 1 to {TEXTS_MAX} texts, not {len(texts)}."
        wrong.append(FieldViolation("texts", message, "OUT_OF_RANGE"))
    if top < 0:
        wrong.append(FieldViolation("top", f"top must be 0 or more, not {top}.", "OUT_OF_RANGE"))
    refuse(wrong)


def refuse_lengths(lengths: Sequence[int], context_tokens: int, path: str = "texts") -> None:
    """
    Args:
        lengths: tokens of each text.
        path: of the texts in the request.

    Raises:
        Invalid: REQUEST_INVALID for a text without a token, CONTEXT_LENGTH_EXCEEDED.
    """
    empty = [place for place, tokens in enumerate(lengths) if not tokens]
    refuse([FieldViolation(f"{path}[{place}]", "An empty text says nothing.", "OUT_OF_RANGE") for place in empty])
    if long := [place for place, tokens in enumerate(lengths) if tokens > context_tokens]:
        message = f"The model reads {context_tokens} tokens; {path}[{long[0]}] has {lengths[long[0]]}."
        raise Invalid(
            "CONTEXT_LENGTH_EXCEEDED",
            message,
            fields=[FieldViolation(f"{path}[{place}]", message, "CONTEXT_LENGTH_EXCEEDED") for place in long],
            advice=["Shorten the texts."],
            prompt_tokens=lengths[long[0]],
            max_tokens="",
            context_tokens=context_tokens,
        )


def passes(lengths: Sequence[int], tokens_max: int = PASS_TOKENS_MAX, *, virtual_tokens: int = 0) -> list[list[int]]:
    """Which texts are read together, by place: those of like length, so that little is filled up.

    Every pass holds one text, or as many as fit `tokens_max` when each is as long as the longest, with what an adapter
    puts before it: that takes room in the cache for every text.
    """
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        if found and (len(found[-1]) + 1) * (virtual_tokens + lengths[place]) <= tokens_max:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def not_a_classifier(model: str) -> WrongState:
    return WrongState(
        "NOT_A_CLASSIFIER",
        f"{model} has no head that judges texts; it generates.",
        advice=["Chat with it, or name a version that was trained to classify or to regress."],
        model=model,
    )


def not_a_chat_model(model: str, facts: HeadFacts) -> WrongState:
    return WrongState(
        "NOT_A_CHAT_MODEL",
        f"{model} was trained to {facts.kind}; it judges texts and generates none.",
        advice=["Call Classify, or name a version that was trained to answer."],
        model=model,
        head=facts.kind,
    )
