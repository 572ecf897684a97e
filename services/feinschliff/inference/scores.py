"""What scoring asks of an engine and gets back: log-probabilities of tokens that are there already. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class ScoringRequest:
    """A text whose end is scored.

    Args:
        token_ids: at least two, and within the engine's `context_tokens`.
        first: place of the first token that is scored, 1 and up: nothing stands before token 0.
        adapter_digest: of a loaded adapter; empty for the base alone.
        top_logprobs: likeliest tokens told at each place, 0 and up.
    """

    token_ids: Sequence[int]
    first: int = 1
    adapter_digest: str = ""
    top_logprobs: int = 0


class Likely(NamedTuple):
    """A token and its natural log-probability given all before."""

    token_id: int
    logprob: float


class TokenScore(NamedTuple):
    """One scored token, and the likeliest ones at its place, best first."""

    token_id: int
    logprob: float
    top: tuple[Likely, ...] = ()


class AnswerTokens(NamedTuple):
    """A conversation up to the end of its last answer, and the place of that answer's first token."""

    token_ids: list[int]
    first: int
