"""Which of the learning weights move in a step, and at which share of the rate: by step, seed and names alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from torch import nn

from feinschliff.formats.optimisation import GradualUnfreezing, HalfFineTuning, UpdateSchedule
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations.last_layers import layers_of
from feinschliff.lm.adaptations.own_weights import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ABOVE, BELOW = "above", "below"
VECTORS = "vectors"
_HALVES = 2404_18466
"""Keeps the draws of halves apart from the other ones of a seed."""


class Moving(Protocol):
    """What moves when. A weight that rests has no gradient, so its memory in the optimiser stays as it is."""

    @property
    def rate_shares(self) -> Mapping[str, float]:
        """Share of the learning rate by name of the weight; one that is not named has all of it."""
        ...

    def resting(self, step: int) -> frozenset[str]:
        """Names of the weights that rest in the step that follows `step` done ones."""
        ...

    def description(self, steps_total: int) -> str:
        """What a reader of the job's events wants to know; empty where there is nothing to say."""
        ...


class Place(NamedTuple):
    """Where a weight stands: in which layer, 0 the lowest, or `above` or `below` all of them.

    Inside a layer, `matrix` is the path of the linear layer or norm that it belongs to, with adapters and biases
    counted to the matrix beside which they stand.
    """

    layer: int | str
    matrix: str = ""
    is_vector: bool = False


@dataclass(frozen=True)
class AllMove:
    """Every weight, in every step."""

    rate_shares: Mapping[str, float] = field(default_factory=dict)

    def resting(self, step: int) -> frozenset[str]:
        return frozenset()

    def description(self, steps_total: int) -> str:
        return ""


class Group(NamedTuple):
    """Layers that join together; `layers` counts all that learn from then on."""

    first_step: int
    layers: int
    names: frozenset[str]


@dataclass(frozen=True)
class Unfreezing:
    """From the top down: a group that has joined goes on learning.

    What stands above the layers (the last norm, a head) belongs to the first group, what stands below them
    (embeddings) to the one that holds the lowest layer. `resting_for_good` never joins.
    """

    groups: tuple[Group, ...]
    resting_for_good: frozenset[str]
    rate_divisor: float
    layers: int

    @property
    def rate_shares(self) -> Mapping[str, float]:
        """Of the k-th group from the top, 1 / divisor^k (discriminative fine-tuning)."""
        return {name: self.rate_divisor**-k for k, group in enumerate(self.groups) for name in group.names}

    def resting(self, step: int) -> frozenset[str]:
        return self.resting_for_good.union(*(group.names for group in self.groups if group.first_step > step))

    def description(self, steps_total: int) -> str:
        joining = ", ".join(f"{group.layers} from step {group.first_step + 1}" for group in self.groups)
        late = [group for group in self.groups if group.first_step >= steps_total]
        end = f" The job ends after step {steps_total}, before {len(late)} of these groups join." if late else ""
        return f"The top layers learn first: {joining}, of {self.layers}.{end}"


@dataclass(frozen=True, eq=False)
class Halves:
    """A random half of each layer's matrices; rounds come in pairs, and the second of a pair moves the other half.

    `cells` are the matrices of one kind in one layer (those of attention, of the feed-forward network, the norms), by
    kind. Where a cell has an odd number, every second layer moves the larger half, so that half of all move. Weights
    outside the layers always move.

    In the paper every round draws anew; pairs make sure that no matrix rests for two rounds of a pair.
    """

    cells: Mapping[str, tuple[tuple[frozenset[str], ...], ...]]
    seed: int
    steps_per_round: int
    rate_shares: Mapping[str, float] = field(default_factory=dict)

    def resting(self, step: int) -> frozenset[str]:
        pair, is_second = divmod(step // self.steps_per_round, 2)
        return _halves(self, pair)[1 - is_second]

    def description(self, steps_total: int) -> str:
        rounds = math.ceil(steps_total / self.steps_per_round)
        matrices = sum(len(cell) for cells in self.cells.values() for cell in cells)
        return f"Half of the {matrices} matrices learn at a time, another half every {self.steps_per_round} steps: " + (
            f"{rounds} rounds." if rounds > 1 else "the job is over before the other half would."
        )


def moving_of(
    schedule: UpdateSchedule, model: PreTrainedModel, weights: Mapping[str, nn.Parameter], *, epoch: int, seed: int
) -> Moving:
    """
    Args:
        weights: those that learn, by name.
        epoch: steps of one.

    Raises:
        Invalid: UPDATE_SCHEDULE_UNFIT, LAYERS_TOO_MANY, ARCHITECTURE_UNSUPPORTED.
    """
    if schedule.gradual_unfreezing:
        return unfreezing(schedule.gradual_unfreezing, places_of(model, weights), epoch=epoch)
    if schedule.half_fine_tuning:
        return halves(schedule.half_fine_tuning, places_of(model, weights), epoch=epoch, seed=seed)
    return AllMove()


@contextmanager
def at_rest(weights: Mapping[str, nn.Parameter], names: Collection[str]) -> Iterator[None]:
    """Within, these weights ask for no gradient: below the lowest one that moves, nothing is differentiated."""
    for name in names:
        weights[name].requires_grad_(False)
    try:
        yield
    finally:
        for name in names:
            weights[name].requires_grad_(True)


def places_of(model: PreTrainedModel, weights: Mapping[str, nn.Parameter]) -> dict[str, Place]:
    """Where each weight stands, by the model's own structure.

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED.
    """
    layers = layers_of(model)
    known: dict[nn.Parameter, Place] = {}
    for layer, module in enumerate(layers):
        for name, weight in module.named_parameters():
            known[weight] = Place(layer, matrix_of(name), weight.dim() < 2)
    for weight in _below(model, layers):
        known.setdefault(weight, Place(BELOW))
    return {name: known.get(weight, Place(ABOVE)) for name, weight in weights.items()}


def matrix_of(name: str) -> str:
    """The matrix or norm of a layer that a weight belongs to: `self_attn.q_proj` for its weight, bias and adapters."""
    path = plain(name).split(".")[:-1]
    adapters = (place for place, part in enumerate(path) if part.startswith(("lora_", "ia3_")))
    return ".".join(path[: next(adapters, len(path))])


def unfreezing(settings: GradualUnfreezing, places: Mapping[str, Place], *, epoch: int) -> Unfreezing:
    """
    Raises:
        Invalid: UPDATE_SCHEDULE_UNFIT, LAYERS_TOO_MANY.
    """
    learning = sorted({place.layer for place in places.values() if isinstance(place.layer, int)}, reverse=True)
    if len(learning) < 2:
        raise _unfit(f"gradual unfreezing needs two layers that learn, and here are {len(learning)}")
    joining = _by_epoch(settings, epoch) if settings.layers_by_epoch else _by_groups(settings, len(learning), epoch)
    if joining[-1][1] > len(learning):
        raise Invalid(
            "LAYERS_TOO_MANY",
            f"layers_by_epoch names {joining[-1][1]} layers, and {len(learning)} learn.",
            advice=["Name fewer layers in update_schedule.gradual_unfreezing.layers_by_epoch."],
            layers=joining[-1][1],
            layers_of_base=len(learning),
        )
    groups = []
    for (_, before), (first_step, layers) in pairwise([(0, 0), *joining]):
        members: set[int | str] = {*learning[before:layers]}
        members |= {ABOVE} if before == 0 else set()
        members |= {BELOW} if layers == len(learning) else set()
        names = frozenset(name for name, place in places.items() if place.layer in members)
        groups.append(Group(first_step, layers, names))
    late = frozenset(places).difference(*(group.names for group in groups))
    return Unfreezing(tuple(groups), late, settings.rate_divisor, len(learning))


def halves(settings: HalfFineTuning, places: Mapping[str, Place], *, epoch: int, seed: int) -> Halves:
    """
    Raises:
        Invalid: UPDATE_SCHEDULE_UNFIT.
    """
    matrices: dict[tuple[str, int], dict[str, set[str]]] = {}
    vectors_only = _vectors_only(places)
    for name, place in places.items():
        if isinstance(place.layer, int):
            parent = place.matrix.rpartition(".")[0]
            kind = VECTORS if (place.layer, place.matrix) in vectors_only else parent
            matrices.setdefault((kind, place.layer), {}).setdefault(place.matrix, set()).add(name)
    if sum(len(cell) for cell in matrices.values()) < 2:
        raise _unfit("half fine-tuning needs two matrices that learn inside the layers")
    cells: dict[str, list[tuple[frozenset[str], ...]]] = {}
    for (kind, _), cell in sorted(matrices.items()):
        cells.setdefault(kind, []).append(tuple(frozenset(cell[matrix]) for matrix in sorted(cell)))
    return Halves(
        {kind: tuple(found) for kind, found in cells.items()},
        seed=seed,
        steps_per_round=settings.steps_per_round or epoch,
    )


def _by_groups(settings: GradualUnfreezing, layers: int, epoch: int) -> list[tuple[int, int]]:
    """(first step, layers that learn from then on) of each group."""
    period = Fraction(str(settings.epochs_per_group)) * epoch
    groups = math.ceil(layers / settings.layers_per_group)
    return [(math.ceil(k * period), min(layers, (k + 1) * settings.layers_per_group)) for k in range(groups)]


def _by_epoch(settings: GradualUnfreezing, epoch: int) -> list[tuple[int, int]]:
    first_epochs = {layers: number for number, layers in reversed(list(enumerate(settings.layers_by_epoch)))}
    return sorted((number * epoch, layers) for layers, number in first_epochs.items())


def _vectors_only(places: Mapping[str, Place]) -> set[tuple[int | str, str]]:
    """Norms and the like: no weight of theirs is a matrix."""
    with_matrix = {(place.layer, place.matrix) for place in places.values() if not place.is_vector}
    return {(place.layer, place.matrix) for place in places.values()} - with_matrix


@lru_cache(maxsize=64)  # each task that learns on its own has a plan
def _halves(plan: Halves, pair: int) -> tuple[frozenset[str], frozenset[str]]:
    """Names that move in the first round of a pair, and those that move in the second."""
    random = np.random.default_rng([plan.seed, pair, _HALVES])
    first: set[str] = set()
    second: set[str] = set()
    spare = int(random.integers(2))  # whether the next odd layer that is left over moves its larger half
    for cells in plan.cells.values():
        odd = [place for place, cell in enumerate(cells) if len(cell) % 2]
        larger = set(random.permutation(odd)[: (len(odd) + spare) // 2].tolist())
        spare = (spare + len(odd)) % 2
        for place, cell in enumerate(cells):
            order = random.permutation(len(cell))
            count = len(cell) // 2 + (place in larger)
            first.update(*(cell[one] for one in order[:count]))
            second.update(*(cell[one] for one in order[count:]))
    return frozenset(first), frozenset(second)


def _below(model: PreTrainedModel, layers: nn.ModuleList) -> Iterator[nn.Parameter]:
    """Weights that the layers' input comes from: they are registered before the layers."""
    (stack,) = (one for one in model.base_model.modules() if any(child is layers for child in one.children()))
    for child in stack.children():
        if child is layers:
            return
        yield from child.parameters()


def _unfit(why: str) -> Invalid:
    return Invalid(
        "UPDATE_SCHEDULE_UNFIT",
        f"The update schedule does not fit what learns: {why}.",
        advice=["Leave update_schedule unset, or take an adaptation that learns in more layers."],
        why=why,
    )
