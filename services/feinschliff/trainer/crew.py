"""The processes that train one job together; alone, there is nobody to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from feinschliff.formats.recipe import Recipe
from feinschliff.trainer import optim
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.stop import Stop

T = TypeVar("T")


class Crew(Protocol):
    """All processes run the same loop over the same rows; each computes its share of every step.

    What a step adds up to is the same for any number of processes, but for rounding. Every method is called by all
    processes equally often and in the same order.
    """

    @property
    def is_first(self) -> bool:
        """Whether this process reports, saves and commits."""
        ...

    @property
    def place(self) -> int:
        """Number of this process, from 0 to one below how many there are."""
        ...

    @property
    def processes_here(self) -> int:
        """How many of the processes use this machine's cores."""
        ...

    def part_of(self, rows: Sequence[int], tokens_of: Callable[[int], int]) -> Sequence[int]:
        """This process's part of a step's rows; every row is in exactly one part, and a part may be empty."""
        ...

    def share(self, batches: Sequence[T], stop: Stop) -> Iterator[T]:
        """This process's own micro-batches; before each, all agree on whether to stop.

        Raises:
            Stopped: in all processes, at the same place.
        """
        ...

    def take_save_request(self, stop: Stop) -> bool:
        """Whether a checkpoint was asked for in a way that all processes know of."""
        ...

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over all processes, the same in all of them."""
        ...

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place; a weight without gradient in any process stays without."""
        ...

    def clip(self, weights: Iterable[nn.Parameter], norm_max: float) -> float:
        """Scale gradients so that their joint norm is at most `norm_max`; returns the norm before."""
        ...

    def cut(self, learner: Learner, recipe: Recipe) -> Learner:
        """Leave this process its part of the weights, where the recipe asks for sharing."""
        ...

    def prepare(self, optimiser: torch.optim.Optimizer, *, idle: Callable[[], None]) -> None:
        """Fit an optimiser, whose memory may have come whole from a checkpoint, to the weights of this process.

        Args:
            idle: a pass without effect, for rounds in which only others have a micro-batch.
        """
        ...

    def gather(self, learner: Learner, states: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put together in the first process what is to be saved: the learner's weights, and the states, returned."""
        ...

    def begin_at(self, step: int) -> None:
        """Show that all processes go on from the same step."""
        ...

    def wait(self) -> None:
        """Until every process is here."""
        ...


class Alone:
    """A crew of one."""

    is_first = True
    place = 0
    processes_here = 1

    def part_of(self, rows: Sequence[int], tokens_of: Callable[[int], int]) -> Sequence[int]:
        return rows

    def share(self, batches: Sequence[T], stop: Stop) -> Iterator[T]:
        for batch in batches:
            stop.check()
            yield batch

    def take_save_request(self, stop: Stop) -> bool:
        return stop.take_save_request()

    def sum(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        return

    def clip(self, weights: Iterable[nn.Parameter], norm_max: float) -> float:
        return optim.clip(weights, norm_max)

    def cut(self, learner: Learner, recipe: Recipe) -> Learner:
        return learner

    def prepare(self, optimiser: torch.optim.Optimizer, *, idle: Callable[[], None]) -> None:
        return

    def gather(self, learner: Learner, states: dict[str, Tensor]) -> dict[str, Tensor]:
        return states

    def begin_at(self, step: int) -> None:
        return

    def wait(self) -> None:
        return


def balanced(rows: Sequence[int], tokens_of: Callable[[int], int], parts: int) -> list[list[int]]:
    """The rows in so many parts of about as many tokens each: the longest first, each to the part that has least.

    At most 4/3 of the best division (Graham 1969, "Bounds on multiprocessing timing anomalies"). Inside a part rows
    keep their order; equal rows and lengths give equal parts in every process.
    """
    loads, chosen = [0] * parts, [[] for _ in range(parts)]  # type: tuple[list[int], list[list[int]]]
    for place in sorted(range(len(rows)), key=lambda place: -tokens_of(rows[place])):
        least = loads.index(min(loads))
        loads[least] += tokens_of(rows[place])
        chosen[least].append(place)
    return [[rows[place] for place in sorted(places)] for places in chosen]
