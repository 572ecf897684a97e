"""Rows of a batch that begin alike: where they do, the tokens stand in the batch once, and all those rows read them.

In a causal model the states of a row's first tokens depend on nothing behind them, so a system prompt that eight rows
share needs one pass and not eight; its gradient is the sum of what the rows send back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

SAVED_TOKENS_MIN = 16
"""A prefix is shared where this saves so many tokens: each run is attended on its own, which costs time too."""


TILE_TOKENS_MAX = 256
"""On a CPU, short runs side by side are attended at once by plain products, as far as these have the square of it in
weights. What is larger takes the fused kernel: weights of products are kept for the backward pass."""

READ_SHARE = 1 / 8
"""What a run keeps of a token that stands before it, over what it keeps of a token of its own: keys and values, without
norms, inputs and the feed-forward layer (a ninth in SmolLM2-135M)."""


class Run(NamedTuple):
    """Tokens that stand side by side in a batch.

    start: place of the first one in its rows.
    before: the runs that its rows begin with, the first first.
    """

    token_ids: list[int]
    start: int
    before: tuple[int, ...]


class Runs(NamedTuple):
    """How the tokens of a batch hang together: where each run begins and ends, and the runs that it continues."""

    bounds: tuple[int, ...]
    before: tuple[tuple[int, ...], ...]


@dataclass
class Arrangement:
    """Rows as runs; each row is made of those that `of_row` names, the first first."""

    rows: Sequence[list[int]]
    runs: list[Run] = field(default_factory=list)
    of_row: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where the runs stand in the batch; the last number is the tokens of all of them."""
        return (0, *accumulate(len(run.token_ids) for run in self.runs))

    @property
    def cost(self) -> int:
        """Tokens, with a share of those that runs read of the runs before them; memory goes by it."""
        lengths = [len(run.token_ids) for run in self.runs]
        return round(sum(lengths) + READ_SHARE * sum(run.start for run in self.runs))

    def add(self, row: int, start: int, stop: int, before: tuple[int, ...]) -> tuple[int, ...]:
        """One more run, if it has a token, of tokens that `row` has; what its rows are made of so far."""
        if start == stop:
            return before
        self.runs.append(Run(self.rows[row][start:stop], start, before))
        return (*before, len(self.runs) - 1)


def common_prefix(rows: Sequence[list[int]]) -> list[int]:
    """Tokens that all rows begin with; the rows that differ first are the least and the greatest."""
    if not rows:
        return []
    least, greatest = min(rows), max(rows)
    pairs = zip(least, greatest, strict=False)
    return least[: next((place for place, (one, other) in enumerate(pairs) if one != other), len(least))]


def side_by_side(rows: Sequence[list[int]]) -> Arrangement:
    """Each row as a run, in their order."""
    made = Arrangement(rows)
    made.of_row = [made.add(number, 0, len(row), ()) for number, row in enumerate(rows)]
    return made


def shared(rows: Sequence[list[int]]) -> Arrangement:
    """Rows with what they begin with in common, as a tree: rows of two system prompts have one trunk each."""
    made = Arrangement(rows, of_row=[()] * len(rows))
    _branch(made, list(range(len(rows))), 0, ())
    return made


def _branch(made: Arrangement, members: list[int], start: int, before: tuple[int, ...]) -> None:
    """Runs of rows that agree up to `start` and, where there are several, on a token more at least."""
    rows = made.rows
    if len(members) == 1:
        made.of_row[members[0]] = made.add(members[0], start, len(rows[members[0]]), before)
        return
    stop = len(common_prefix([rows[member] for member in members]))
    if (len(members) - 1) * (stop - start) >= SAVED_TOKENS_MIN:
        before, start = made.add(members[0], start, stop, before), stop
    parted: dict[int, list[int]] = {}
    for member in members:
        if len(rows[member]) == stop:
            made.of_row[member] = made.add(member, start, stop, before)
        else:
            parted.setdefault(rows[member][stop], []).append(member)
    for group in parted.values():
        _branch(made, group, start, before)
