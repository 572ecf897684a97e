"""From logits to text: choosing each next token, decoding it piece by piece, and finding where the text stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feinschliff.lm.drawing import Filters, Floats, draw
from feinschliff.lm.penalties import Penalties, Weights

_INCOMPLETE_CHARACTERS_MAX = 3  # replacement characters that the bytes of one unfinished UTF-8 character can become


class Sampler:
    """Chooses the tokens of one request; what else is in the batch has no influence on it.

    Args:
        temperature: 0 takes the most probable token; above, logits are divided by it.
        top_p, top_k, min_p: which tokens can be drawn; see `drawing.Filters`.
        seed: 64 bits; the same seed on the same logits chooses the same tokens.
        weights: changes of the logits before anything else; see `penalties.Weights`.
        prompt_ids: what stands before the answer; tokens there count as repeated.
    """

    def __init__(
        self,
        *,
        temperature: float,
        seed: int,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        weights: Weights | None = None,
        prompt_ids: Sequence[int] = (),
    ) -> None:
        self._temperature = temperature
        self._filters = Filters(top_k=top_k, top_p=top_p, min_p=min_p)
        self._random = Random(seed % 2**64)
        changes = weights and not weights.change_nothing
        self._penalties = Penalties(weights, prompt_ids) if weights and changes else None

    @property
    def takes_likeliest(self) -> bool:
        """Whether it chooses the likeliest token of the logits as they are."""
        return self._temperature == 0 and self._penalties is None

    def choose(self, logits_V: Tensor, allowed_V: NDArray[np.bool_] | None = None) -> int:
        """The next token, out of those allowed; at least one is, and not all logits are -inf."""
        return self.choose_from(_own_copy(logits_V), allowed_V)

    def choose_from(self, logits_V: Floats, allowed_V: NDArray[np.bool_] | None = None) -> int:
        """As `choose`; the logits are changed in place."""
        if self._penalties is not None:
            self._penalties.apply(logits_V)
        if allowed_V is not None:
            logits_V[~allowed_V] = -np.inf
        if self._temperature == 0:
            token = int(logits_V.argmax())
        else:
            uniform = self._random.random()
            token = draw(logits_V, temperature=self._temperature, filters=self._filters, uniform=uniform)
        if self._penalties is not None:
            self._penalties.add(token)
        return token


def likeliest(logits_BV: Tensor) -> list[int]:
    """The first of the largest logits of each row; -1 where that is not finite or one is not a number."""
    most_B, token_B = logits_BV.float().max(-1)
    return [
        token if is_finite else -1
        for token, is_finite in zip(token_B.tolist(), most_B.isfinite().tolist(), strict=True)
    ]


def choose_tokens(
    logits_BV: Tensor,
    samplers: Sequence[Sampler],
    allowed_B: Sequence[NDArray[np.bool_] | None] | None = None,
    likeliest_B: Sequence[int] | None = None,
) -> list[int]:
    """The next token of each row; row i is chosen by `samplers[i]` alone, out of the tokens that `allowed_B[i]` names.

    Rows that take the likeliest token are chosen at once, where the logits are; only the others are copied.
    """
    allowed_B = allowed_B or [None] * len(samplers)
    chosen = likeliest(logits_BV) if likeliest_B is None else list(likeliest_B)
    pairs = enumerate(zip(samplers, allowed_B, strict=True))
    own = [row for row, (sampler, allowed_V) in pairs if allowed_V is not None or not sampler.takes_likeliest]
    if own:
        for row, logits_V in zip(own, _own_copy(logits_BV[own]), strict=True):
            chosen[row] = samplers[row].choose_from(logits_V, allowed_B[row])
    return chosen


def _own_copy(logits: Tensor) -> Floats:
    """Logits in fp32 in main memory that nobody else sees."""
    copied: Floats = logits.to("cpu", torch.float32, copy=True).numpy()
    return copied


class Detokeniser:
    """Text of a growing token sequence, never with half a character; all pieces joined are the whole text."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._context_size = 0
        self._emitted = 0  # characters of the window's text that were given out

    def push(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._decode(self._window)
        whole = _without_unfinished_character(text)
        piece = whole[self._emitted :]
        self._emitted = max(self._emitted, len(whole))
        if piece and len(whole) == len(text):
            self._advance()
        return piece

    def flush(self) -> str:
        """What was held back as half a character and will not be completed any more."""
        piece = self._decode(self._window)[self._emitted :]
        self._emitted += len(piece)
        return piece

    def _advance(self) -> None:
        """Keep the newest tokens only as context: some decoders treat the first token of a text in their own way."""
        self._window = self._window[self._context_size :]
        self._context_size = len(self._window)
        self._emitted = len(self._decode(self._window))


def _without_unfinished_character(text: str) -> str:
    whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
    return text[: max(len(whole), len(text) - _INCOMPLETE_CHARACTERS_MAX)]


class Found(NamedTuple):
    """Text that may be shown, and whether a stop string ended it."""

    text: str
    stopped: bool


class StopFinder:
    """Ends a text before its first stop string, however the text is cut into pieces.

    First is the one that is complete first; the end of a piece that could still become a stop string is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, piece: str) -> Found:
        text = self._held + piece
        hits = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if hits:
            self._held = ""
            return Found(text[: min(hits)[1]], True)
        safe = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[safe:]
        return Found(text[:safe], False)

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, short of all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class TextStream:
    """Tokens in, text that is safe to show out: whole characters, nothing of a stop string."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._detokeniser = Detokeniser(decode)
        self._stops = StopFinder(stops)

    def push(self, token_id: int) -> Found:
        return self._stops.push(self._detokeniser.push(token_id))

    def flush(self) -> Found:
        """The rest of the text once no further token comes."""
        text, stopped = self._stops.push(self._detokeniser.flush())
        return Found(text if stopped else text + self._stops.flush(), stopped)
