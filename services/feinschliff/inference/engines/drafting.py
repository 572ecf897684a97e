"""What is drafted for the rows of a step: as much as is likely to bring more than it costs."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from feinschliff.inference.engines.row import Row

_FIXED_TOKENS = 20.0
"""What a step costs before its first token, in tokens: reading the weights takes as long as computing so many."""


def draft(rows: Sequence[Row], tokens_max: int) -> list[list[int]] | None:
    """What each row may say behind its next token, at most so many; None where nothing is worth reading."""
    shares = []
    for row in rows:
        row.pace.fade()
        shares.append(row.pace.share if row.lookup is not None and row.lookup.recurs else 0.0)
    if not any(shares):
        return None
    limits = [min(tokens_max, row.request.max_tokens - row.completion_tokens - 1) for row in rows]
    chosen = counts(shares, limits, fixed_tokens=_FIXED_TOKENS)
    return [_drafted(row, count) for row, count in zip(rows, chosen, strict=True)] if any(chosen) else None


def _drafted(row: Row, count: int) -> list[int]:
    """Nothing comes behind a token that ends the answer."""
    tokens = row.lookup.propose(count) if row.lookup is not None and count else []
    end = next((place for place, token in enumerate(tokens, start=1) if token in row.stop_ids), count)
    return tokens[:end]


def counts(shares: Sequence[float], limits: Sequence[int], *, fixed_tokens: float) -> list[int]:
    """Tokens to draft for each row: those most likely to hold first, while a step's tokens become cheaper by it.

    A step of n tokens takes as long as `fixed_tokens` + n of them, and brings each row's next token and what holds of the
    drafts. Drafted is what brings more for its cost than the step without it.

    Args:
        shares: of each row's drafted tokens that hold; 0 for one that has no draft.
        limits: most tokens of each row.
        fixed_tokens: what a step costs however few tokens are in it.
    """
    chosen = [0] * len(shares)
    likely = [(-share, row) for row, share in enumerate(shares) if share > 0 and limits[row] > 0]
    heapq.heapify(likely)
    brought, cost = float(len(shares)), fixed_tokens + len(shares)
    while likely:
        share, row = -likely[0][0], likely[0][1]
        if share * cost <= brought:
            break
        chosen[row] += 1
        brought, cost = brought + share, cost + 1
        if chosen[row] < limits[row]:
            heapq.heapreplace(likely, (-share * shares[row], row))
        else:
            heapq.heappop(likely)
    return chosen
