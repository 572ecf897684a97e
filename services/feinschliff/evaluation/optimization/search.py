"""The search for a better prompt, behind one protocol: what to try next, given what was tried; pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from feinschliff.formats.records import Message
from feinschliff.graders.grade import Item

FAILURES_SHOWN = 4
TEXT_CHARACTERS_MAX = 1500
EXAMPLES_TRIED_MAX = 8
ASK = (
    "You improve instructions for a language model. Write better instructions for the task below. Say what the model "
    "must do and in which form it must answer, in at most 200 words. Answer with the instructions alone. "
    "Do not use curly brackets."
)

Turns = Sequence[Mapping[str, object]]
"""`{"role", "text"}` in order, as prompts are kept."""


class Miss(NamedTuple):
    """A row that the best prompt so far answers wrongly."""

    question: str
    answer: str
    why: str


class Tried(NamedTuple):
    """A prompt with its mean on the rows of the search; None: it could not be measured."""

    messages: Turns
    mean: float | None


class Pool(NamedTuple):
    """A row that may be shown as an example, and the answer that is right."""

    item: Item
    question: str
    answer: str


class Ask(NamedTuple):
    """A question to the proposing model; its answer becomes the instructions of `base`."""

    messages: Sequence[Message]
    base: Turns


class Try(NamedTuple):
    """A prompt to measure."""

    messages: Turns


class Search(Protocol):
    def next(self, tried: Sequence[Tried], misses: Sequence[Miss], pool: Sequence[Pool]) -> Ask | Try: ...


class HillClimb:
    """From the best prompt so far, by turns: new instructions from a model that sees what went wrong, other examples.

    Seeded by the number of prompts tried, so a search that is taken up again goes the way it would have gone.
    """

    def __init__(self, start: Turns, examples_max: int, seed: int) -> None:
        self._start = start
        self._examples_max = examples_max
        self._seed = seed

    def next(self, tried: Sequence[Tried], misses: Sequence[Miss], pool: Sequence[Pool]) -> Ask | Try:
        if not tried:
            return Try(self._start)
        top = best_of(tried)
        messages = tried[top].messages if top is not None else self._start
        rng = random.Random(f"{self._seed}/{len(tried)}")
        if self._examples_max and pool and len(tried) % 2 == 1:
            return Try(with_examples(messages, _drawn(pool, self._examples_max, rng)))
        return Ask(_asking(messages, rng.sample(list(misses), min(len(misses), FAILURES_SHOWN))), messages)


def best_of(tried: Sequence[Tried]) -> int | None:
    """Index of the best mean, the first of equal ones; None where nothing is measured."""
    measured = [k for k, one in enumerate(tried) if one.mean is not None]
    return max(measured, key=lambda k: (tried[k].mean or 0.0, -k), default=None)


def with_instructions(messages: Turns, text: str) -> list[Mapping[str, object]]:
    """The prompt with other instructions; what looks like a placeholder is taken out."""
    plain = text.replace("{{", "{ ").replace("}}", " }").strip()[:TEXT_CHARACTERS_MAX]
    rest = [turn for turn in messages if turn["role"] not in ("system", "developer")]
    return [{"role": "system", "text": plain}, *rest] if plain else list(messages)


def with_examples(messages: Turns, examples: Sequence[Pool]) -> list[Mapping[str, object]]:
    """The instructions, the examples as turns, and the last question; examples that stood there before are gone."""
    lead = [turn for turn in messages if turn["role"] in ("system", "developer")]
    shown: list[Mapping[str, object]] = []
    for one in examples:
        shown += [{"role": "user", "text": one.question}, {"role": "assistant", "text": one.answer}]
    return [*lead, *shown, messages[-1]]


def can_be_shown(one: Pool) -> bool:
    """Text in double curly brackets would be read as a placeholder."""
    return bool(one.answer) and "{{" not in one.question + one.answer and len(one.question) <= TEXT_CHARACTERS_MAX


def _drawn(pool: Sequence[Pool], most: int, rng: random.Random) -> list[Pool]:
    count = rng.randint(1, min(most, EXAMPLES_TRIED_MAX, len(pool)))
    return rng.sample(list(pool), count)


def _asking(messages: Turns, misses: Sequence[Miss]) -> list[Message]:
    present = "\n".join(str(turn["text"]) for turn in messages if turn["role"] in ("system", "developer"))
    parts = [f"Present instructions:\n{present or '(none)'}", f"Form of a question:\n{messages[-1]['text']}"]
    for miss in misses:
        cut = [text[:TEXT_CHARACTERS_MAX] for text in miss]
        parts.append(f"A question answered wrongly:\n{cut[0]}\nThe answer was:\n{cut[1]}\nWhy it is wrong:\n{cut[2]}")
    return [Message(role="system", content=ASK), Message(role="user", content="\n\n".join(parts))]
