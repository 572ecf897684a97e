"""Prompts of one length that share nothing but the template's opening."""

from __future__ import annotations

import random
from collections.abc import Callable

PROMPT_TOKENS = 128
ANSWER_TOKENS = 64
_WORDS = [
    "river",
    "mountain",
    "engine",
    "paper",
    "winter",
    "garden",
    "letter",
    "window",
    "bridge",
    "doctor",
    "harbour",
    "market",
    "silver",
    "planet",
    "forest",
    "music",
    "kitchen",
    "travel",
    "shadow",
    "summer",
    "teacher",
    "island",
    "cotton",
    "signal",
    "temple",
    "orange",
    "village",
    "minute",
    "picture",
    "number",
]


def conversations(count: int, length: Callable[[str], int], *, seed: int) -> list[str]:
    """User turns whose whole rendered conversation has `PROMPT_TOKENS` tokens.

    Args:
        length: tokens of the conversation with such a user turn.
    """
    chosen = random.Random(seed)
    found = []
    for _ in range(count):
        text = "Tell me a very long story with all of these words:"
        while (missing := PROMPT_TOKENS - length(text)) > 0:
            text += "".join(f" {chosen.choice(_WORDS)}" for _ in range(max(1, missing // 2)))
        found.append(text)
    return found
