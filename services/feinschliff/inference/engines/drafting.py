"""What is drafted for the rows of a step: as much as is likely to bring more than it costs."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple

from feinschliff.inference.engines.row import Row

TIMED_TOKENS = 16
_TIMED_TURNS = 3
_FIXED_MIN, _FIXED_MAX = 8.0, 40.0  # a machine that was busy when it was timed

_POSITIONS_A_TOKEN = 1000
"""Looking back at so many positions costs as much as the rest of a token, measured likewise; less in larger models."""

_GAIN_MIN = 1.2
"""Times its cost that a drafted token must be likely to bring: choosing tokens one after the other takes time too."""


class Chance(NamedTuple):
    """Of a row's draft: the most tokens, how likely each holds if those before it do, and what one costs, in tokens at
    the first position."""

    limit: int
    share: float
    cost: float


def fixed_tokens(step: Callable[[int], object]) -> float:
    """What a step costs before its first token, in tokens: reading the weights takes as long as computing so many.

    It follows from precision, threads and memory, so it is timed where the model is loaded.

    Args:
        step: takes one of so many tokens.
    """
    seconds = {tokens: min(_seconds(step, tokens) for _ in range(_TIMED_TURNS)) for tokens in (1, 1 + TIMED_TOKENS)}
    one, some = seconds.values()
    a_token = (some - one) / TIMED_TOKENS
    return min(_FIXED_MAX, max(_FIXED_MIN, one / a_token - 1)) if a_token > 0 else _FIXED_MAX


def _seconds(step: Callable[[int], object], tokens: int) -> float:
    began = time.perf_counter()
    step(tokens)
    return time.perf_counter() - began


def draft(rows: Sequence[Row], tokens_max: int, *, fixed: float) -> list[list[int]] | None:
    """What each row may say behind its next token, at most so many; None where nothing is worth reading.

    Args:
        fixed: as `fixed_tokens` has timed it.
    """
    shares = [row.lookup.share() if row.lookup is not None else 0.0 for row in rows]
    if not any(shares):
        return None
    chosen = counts([_chance(row, share, tokens_max) for row, share in zip(rows, shares, strict=True)], fixed=fixed)
    return [_drafted(row, count) for row, count in zip(rows, chosen, strict=True)] if any(chosen) else None


def counts(chances: Sequence[Chance], *, fixed: float) -> list[int]:
    """Tokens to draft for each row, the most likely for their cost first, while they make a step's tokens cheaper.

    A step brings each row's next token and what holds of the drafts; drafted is what brings clearly more for its cost
    than the step does without it. No draft costs more than its row's part of the step: a row that repeats itself should
    not make all others wait.

    Args:
        fixed: what a step costs beside its tokens.
    """
    chosen = [0] * len(chances)
    brought, cost = float(len(chances)), fixed + sum(chance.cost for chance in chances)
    limits = [min(chance.limit, ceil(cost / len(chances) / chance.cost)) for chance in chances]
    best = [(-chance.share / chance.cost, row) for row, chance in enumerate(chances) if limits[row] > 0]
    heapq.heapify(best)
    while best and -best[0][0] * cost > brought * _GAIN_MIN:
        worth, row = best[0]
        chance = chances[row]
        chosen[row] += 1
        brought, cost = brought - worth * chance.cost, cost + chance.cost
        if chosen[row] < limits[row]:
            heapq.heapreplace(best, (worth * chance.share, row))
        else:
            heapq.heappop(best)
    return chosen


def _chance(row: Row, share: float, tokens_max: int) -> Chance:
    limit = min(tokens_max, row.request.max_tokens - row.completion_tokens - 1)
    positions = row.virtual_tokens + row.prompt_tokens + row.completion_tokens
    return Chance(limit if share else 0, share, 1 + positions / _POSITIONS_A_TOKEN)


def _drafted(row: Row, count: int) -> list[int]:
    """Nothing comes behind a token that ends the answer."""
    tokens = row.lookup.propose(count) if row.lookup is not None and count else []
    end = next((place for place, token in enumerate(tokens, start=1) if token in row.stop_ids), count)
    return tokens[:end]
