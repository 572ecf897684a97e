"""From logits to text: choosing each next token, decoding it piece by piece, and finding where the text stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_NUCLEUS_FIRST_LOOK = 512  # tokens; nearly every nucleus is smaller, and a partial sort is ten times cheaper
_INCOMPLETE_CHARACTERS_MAX = 3  # replacement characters that the bytes of one unfinished UTF-8 character can become


class Sampler:
    """Chooses the tokens of one request; what else is in the batch has no influence on it.

    Args:
        temperature: 0 takes the most probable token; above, logits are divided by it.
        top_p: in (0, 1]; only the smallest set of most probable tokens that together reach it can be chosen.
        seed: the same seed on the same logits chooses the same tokens.
    """

    def __init__(self, *, temperature: float, top_p: float, seed: int) -> None:
        self.is_greedy = temperature == 0
        self._temperature = temperature
        self._top_p = top_p
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, logits_V: Tensor) -> int:
        if self.is_greedy:
            return int(logits_V.argmax())
        scaled_V = logits_V.to("cpu", torch.float64)
        scaled_V = (scaled_V - scaled_V.max()) / self._temperature
        probabilities_V = torch.softmax(scaled_V, dim=-1)
        draw = torch.rand((), generator=self._generator, dtype=torch.float64)
        if self._top_p >= 1:
            return _at(probabilities_V.cumsum(-1), draw)
        weights_N, tokens_N = _nucleus(probabilities_V, self._top_p)
        return int(tokens_N[_at(weights_N.cumsum(-1), draw)])


def choose_tokens(logits_BV: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row; row i is chosen by `samplers[i]` alone."""
    chosen: list[int] = logits_BV.argmax(-1).tolist()
    for row, sampler in enumerate(samplers):
        if not sampler.is_greedy:
            chosen[row] = sampler.choose(logits_BV[row])
    return chosen


def _nucleus(probabilities_V: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Weights and ids of the smallest set of most probable tokens whose sum reaches `top_p`."""
    weights_N, tokens_N = probabilities_V.topk(min(_NUCLEUS_FIRST_LOOK, probabilities_V.numel()))
    if float(weights_N.sum()) < top_p:
        weights_N, tokens_N = probabilities_V.sort(descending=True, stable=True)
    before_N = weights_N.cumsum(-1) - weights_N
    size = max(1, int((before_N < top_p).sum()))
    return weights_N[:size], tokens_N[:size]


def _at(cumulative_N: Tensor, draw: Tensor) -> int:
    """The index whose share of [0, total) holds `draw` x total; never one of no weight."""
    total = cumulative_N[-1]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    return int(torch.searchsorted(cumulative_N, torch.minimum(draw * total, below_total), right=True))


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
