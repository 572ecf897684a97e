"""Which rows a step learns from: a pure function of the seed, so a resumed run draws what it would have drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from feinschliff.formats.recipe import Optimisation


class Source(NamedTuple):
    """Rows `first` to `first + rows - 1` of the table; `weight` is how often each is taken per epoch."""

    first: int
    rows: int
    weight: float


@dataclass(frozen=True)
class Course:
    """The way through the data: every epoch in its own order, cut into steps; the last step of an epoch may be short.

    A source of weight 2.5 gives each row twice, and half of its rows a third time, other ones in each epoch.
    """

    sources: tuple[Source, ...]
    seed: int
    batch_size: int
    steps_total: int

    @classmethod
    def of(cls, sources: Sequence[Source], optimisation: Optimisation, *, seed: int) -> Course:
        rows = sum(_drawn(source) for source in sources)
        steps = max(1, math.ceil(optimisation.epochs * math.ceil(rows / optimisation.batch_size)))
        if optimisation.steps_max:
            steps = min(steps, optimisation.steps_max)
        return cls(tuple(sources), seed, optimisation.batch_size, steps)

    @property
    def rows_per_epoch(self) -> int:
        return sum(_drawn(source) for source in self.sources)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows_per_epoch / self.batch_size)

    def rows_of(self, step: int) -> list[int]:
        """Row numbers of the step that follows `step` done ones."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _epoch_order(self.sources, self.seed, epoch)
        return [int(row) for row in order[place * self.batch_size : (place + 1) * self.batch_size]]

    def epochs_after(self, steps: int) -> float:
        """Passes over the data that `steps` done steps are."""
        epochs, place = divmod(steps, self.steps_per_epoch)
        return epochs + min(1.0, place * self.batch_size / self.rows_per_epoch)

    def ends_epoch(self, steps: int) -> bool:
        return steps > 0 and steps % self.steps_per_epoch == 0


def _drawn(source: Source) -> int:
    return round(source.rows * source.weight)


@lru_cache(maxsize=2)
def _epoch_order(sources: tuple[Source, ...], seed: int, epoch: int) -> np.ndarray:
    random = np.random.default_rng([seed, epoch])
    drawn = [_draw(source, random) for source in sources]
    return random.permutation(np.concatenate(drawn))


def _draw(source: Source, random: np.random.Generator) -> np.ndarray:
    rows = np.arange(source.first, source.first + source.rows)
    whole, rest = divmod(_drawn(source), source.rows)
    return np.concatenate([np.tile(rows, whole), random.choice(rows, size=rest, replace=False)])
