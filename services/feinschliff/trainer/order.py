"""Which rows a step learns from: a pure function of the seed, so a resumed run draws what it would have drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from feinschliff.formats.optimisation import Optimisation
from feinschliff.formats.steps import rows_drawn, steps_of
from feinschliff.kit.errors import Invalid


class Source(NamedTuple):
    """Rows `first` to `first + rows - 1` of the table; `weight` is how often each is taken per epoch."""

    first: int
    rows: int
    weight: float


@dataclass(frozen=True, eq=False)
class Course:
    """The way through the data: every epoch in its own order, cut into steps; the last step of an epoch may be short.

    A source of weight 2.5 gives each row twice, and half of its rows a third time, other ones in each epoch.
    """

    sources: tuple[Source, ...]
    seed: int
    batch_size: int
    steps_total: int
    order: str = "shuffled"
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Tokens of each row of the table."""
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Of the last two epochs that were asked for."""

    @classmethod
    def of(
        cls, sources: Sequence[Source], optimisation: Optimisation, *, seed: int, lengths: Sequence[int] = ()
    ) -> Course:
        """Args: lengths: tokens of each row of the table; needed for the order `by_length`."""
        rows = sum(_drawn(source) for source in sources)
        steps = steps_of(rows, optimisation)
        tokens = np.asarray(lengths, dtype=np.int64)
        return cls(tuple(sources), seed, optimisation.batch_size, steps, optimisation.order, tokens)

    @property
    def rows_per_epoch(self) -> int:
        return sum(_drawn(source) for source in self.sources)

    @property
    def rows(self) -> Sequence[int]:
        """Numbers of the rows that are learned from, in the order of the sources."""
        return [row for source in self.sources for row in range(source.first, source.first + source.rows)]

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows_per_epoch / self.batch_size)

    def rows_of(self, step: int) -> list[int]:
        """Row numbers of the step that follows `step` done ones."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order_of(epoch)
        return [int(row) for row in order[place * self.batch_size : (place + 1) * self.batch_size]]

    def _order_of(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            while len(self._orders) > 1:
                del self._orders[min(self._orders)]
            self._orders[epoch] = _epoch_order(self, epoch)
        return self._orders[epoch]

    def epochs_after(self, steps: int) -> float:
        """Passes over the data that `steps` done steps are."""
        epochs, place = divmod(steps, self.steps_per_epoch)
        return epochs + min(1.0, place * self.batch_size / self.rows_per_epoch)

    def is_due(self, steps: int, *, every_steps: int, every_epochs: float) -> bool:
        """Whether something that comes so often comes after `steps` done ones: at the first step that is not too early.

        `every_epochs` counts only where `every_steps` is 0.
        """
        period = Fraction(every_steps) or Fraction(str(every_epochs)) * self.steps_per_epoch
        return steps > 0 and steps // period > (steps - 1) // period


def refuse_nothing_to_learn(sources: Sequence[Source], task: str = "") -> None:
    """
    Args:
        task: whose sources they are, where it learns on its own.

    Raises:
        Invalid: NOTHING_TO_LEARN, no row is left, or the weights are so small that none is taken.
    """
    if any(_drawn(source) for source in sources):
        return
    rows, of_task = sum(source.rows for source in sources), f" of the task `{task}`" if task else ""
    raise Invalid(
        "NOTHING_TO_LEARN",
        f"Not one row{of_task} is learned from in an epoch; {rows} are left of the data after long ones were cut or "
        "left out.",
        advice=["Raise max_row_tokens, so that rows keep their answers.", "Raise the weights of the data."],
        rows=rows,
    )


def fixed_choice(rows: int, rows_max: int, *, seed: int) -> Sequence[int]:
    """At most `rows_max` of so many row numbers, growing, the same ones for an equal seed; 0 takes all."""
    if not 0 < rows_max < rows:
        return range(rows)
    chosen = np.random.default_rng([seed, rows]).choice(rows, size=rows_max, replace=False)
    return [int(row) for row in np.sort(chosen)]


def shuffled(drawn: np.ndarray, course: Course, random: np.random.Generator) -> np.ndarray:
    return random.permutation(drawn)


def as_given(drawn: np.ndarray, course: Course, random: np.random.Generator) -> np.ndarray:
    return drawn


def by_length(drawn: np.ndarray, course: Course, random: np.random.Generator) -> np.ndarray:
    """Rows of similar length share a step, and the steps are shuffled; rows of a short last step are any rows."""
    mixed = random.permutation(drawn)
    whole = len(mixed) - len(mixed) % course.batch_size
    together = mixed[:whole][np.argsort(course.lengths[mixed[:whole]], kind="stable")]
    steps = random.permutation(together.reshape(-1, course.batch_size))
    return np.concatenate([steps.reshape(-1), mixed[whole:]])


ORDERS: Mapping[str, Callable[[np.ndarray, Course, np.random.Generator], np.ndarray]] = {
    "shuffled": shuffled,
    "as_given": as_given,
    "by_length": by_length,
}


def _drawn(source: Source) -> int:
    return rows_drawn(source.rows, source.weight)


def _epoch_order(course: Course, epoch: int) -> np.ndarray:
    random = np.random.default_rng([course.seed, epoch])
    drawn = [_draw(source, random, sort=course.order == "as_given") for source in course.sources]
    return ORDERS[course.order](np.concatenate(drawn), course, random)


def _draw(source: Source, random: np.random.Generator, *, sort: bool) -> np.ndarray:
    """The rows of an epoch: all of them as often as the weight is whole, then a fraction of them."""
    rows = np.arange(source.first, source.first + source.rows)
    whole, rest = divmod(_drawn(source), source.rows) if source.rows else (0, 0)
    fraction = random.choice(rows, size=rest, replace=False)
    return np.concatenate([np.tile(rows, whole), np.sort(fraction) if sort else fraction])
