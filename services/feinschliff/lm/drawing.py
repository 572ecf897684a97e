"""Drawing one token from a row of logits: which tokens can be drawn, and which of them a number in [0, 1) means."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

_NEAR = -10.0  # first look: tokens at least e^-10 times as probable as the likeliest; nearly every nucleus is in there
_BLOCK = 256  # tokens summed up at once where all can be drawn


@dataclass(frozen=True)
class Filters:
    """Which tokens can be drawn, in this order; the likeliest always can.

    Args:
        top_k: the so many likeliest; 0 is all (Fan et al. 2018, arXiv:1805.04833).
        top_p: of those left, the smallest set of likeliest that holds this share of their probability
            (Holtzman et al. 2019, arXiv:1904.09751); 1 is all.
        min_p: of those left, the ones at least so many times as probable as the likeliest
            (Nguyen et al. 2024, arXiv:2407.01082); 0 is all.

    Among equally likely tokens the one of the smaller id comes first.
    """

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def keep_all(self) -> bool:
        return self.top_k == 0 and self.top_p >= 1 and self.min_p <= 0


def draw(logits_V: Floats, *, temperature: float, filters: Filters, uniform: float) -> int:
    """The token whose share of what can be drawn holds `uniform`.

    The distribution is softmax(logits / temperature), exact up to fp32 exponentials summed in fp64. Its tail is not
    even sorted unless the filters reach into it.

    Args:
        logits_V: finite, or -inf for tokens of no probability; at least one is finite.
        temperature: above 0.
        uniform: in [0, 1).
    """
    scaled_V = (logits_V - logits_V.max()) / np.float32(max(temperature, 1e-6))
    weights_V = np.exp(scaled_V)
    if filters.top_k >= logits_V.size:
        filters = replace(filters, top_k=0)
    if filters.keep_all:
        return _at_all(weights_V, uniform)
    tokens_N, weights_N = _left(scaled_V, weights_V, filters)
    return int(tokens_N[_at(weights_N.cumsum(), uniform)])


def _left(scaled_V: Floats, weights_V: Floats, filters: Filters) -> tuple[Ids, Doubles]:
    """Ids and weights of what the filters leave, the likeliest first."""
    near_N = np.flatnonzero(scaled_V >= _NEAR)
    if _reach_beyond(near_N, weights_V, filters):
        near_N = np.arange(scaled_V.size)
    ids_N = near_N[np.argsort(-scaled_V[near_N], kind="stable")]
    if filters.top_k:
        ids_N = ids_N[: filters.top_k]
    weights_N = weights_V[ids_N].astype(np.float64)
    if filters.top_p < 1:
        held = weights_N.sum() if filters.top_k else weights_V.sum(dtype=np.float64)
        before_N = weights_N.cumsum() - weights_N
        size = max(1, int((before_N < filters.top_p * held).sum()))
        ids_N, weights_N = ids_N[:size], weights_N[:size]
    if filters.min_p > 0:
        size = max(1, int((weights_N >= filters.min_p).sum()))  # the likeliest weighs 1
        ids_N, weights_N = ids_N[:size], weights_N[:size]
    return ids_N, weights_N


def _reach_beyond(near_N: Ids, weights_V: Floats, filters: Filters) -> bool:
    """Whether the filters would leave a token that is not near."""
    if filters.min_p >= np.exp(_NEAR):
        reaches_far = False
    elif filters.top_k:
        reaches_far = near_N.size < filters.top_k
    else:
        reaches_far = True
    if filters.top_k == 0 and filters.top_p < 1:
        held = weights_V[near_N].sum(dtype=np.float64)
        return bool(held < filters.top_p * weights_V.sum(dtype=np.float64))
    return reaches_far


def _at_all(weights_V: Floats, uniform: float) -> int:
    """As `_at` over all tokens; only the block that holds the draw is summed up token by token."""
    starts = np.arange(0, weights_V.size, _BLOCK)
    cumulative_N = np.add.reduceat(weights_V, starts, dtype=np.float64).cumsum()
    wanted = uniform * cumulative_N[-1]
    block = min(int(np.searchsorted(cumulative_N, wanted, side="right")), starts.size - 1)
    before = float(cumulative_N[block - 1]) if block else 0.0
    inside_N = weights_V[block * _BLOCK : (block + 1) * _BLOCK].astype(np.float64).cumsum()
    return block * _BLOCK + _last_of_weight(inside_N, int(np.searchsorted(inside_N, wanted - before, side="right")))


def _at(cumulative_N: Doubles, uniform: float) -> int:
    """The index whose share of [0, total) holds `uniform` x total; never one of no weight."""
    return _last_of_weight(cumulative_N, int(np.searchsorted(cumulative_N, uniform * cumulative_N[-1], side="right")))


def _last_of_weight(cumulative_N: Doubles, index: int) -> int:
    """Rounding may lead behind the end: then it is the last one that weighs anything."""
    if index < cumulative_N.size:
        return index
    return int(np.searchsorted(cumulative_N, cumulative_N[-1], side="left"))
