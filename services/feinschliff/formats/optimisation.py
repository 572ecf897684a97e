"""Steps, batches, rates, and which of the learning weights move when."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from feinschliff.formats.adaptations import LEARNING_RATE
from feinschliff.formats.base import Stored


class Optimisation(Stored):
    """AdamW with warm-up and decay."""

    epochs: float = Field(3.0, gt=0, le=50)
    steps_max: int = Field(0, ge=0, description="Optimiser steps at most; 0: as many as the epochs give.")
    batch_size: int = Field(8, ge=1, le=256, description="Rows per optimiser step.")
    micro_batch_tokens: int = Field(2048, ge=16, le=1_048_576, description="Tokens per forward pass; bounds memory.")
    learning_rate: float = Field(LEARNING_RATE, gt=0, le=1, description="Not set: by the adaptation, see Recipe.")
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["linear", "constant", "cosine", "wsd"] = "linear"
    decay_fraction: float = Field(0.2, gt=0, le=1, description="Share of the steps in which `wsd` falls.")
    final_rate_fraction: float = Field(0.0, ge=0, le=1, description="Where the rate ends; not for `constant`.")
    weight_decay: float = Field(0.0, ge=0, le=1)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0, le=1e-2)
    max_gradient_norm: float = Field(1.0, gt=0, le=1000)
    max_row_tokens: int = Field(2048, ge=16, le=131_072)
    on_long_row: Literal["error", "truncate", "drop"] = "error"
    order: Literal["shuffled", "by_length", "as_given"] = "shuffled"
    neftune_alpha: float = Field(0.0, ge=0, le=100, description="Jain et al. 2023, arXiv:2310.05914: 5 to 15; 0: none.")
    optimiser: Literal["adamw", "adamw_8bit"] = "adamw"
    gradient_checkpointing: bool = Field(
        False, description="Activations are computed twice instead of kept. Not set: by the adaptation, see Recipe."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Optimisation:
        if self.schedule == "constant" and self.final_rate_fraction:
            raise ValueError("final_rate_fraction is for a rate that falls; schedule constant does not")
        if self.schedule != "wsd" and self.decay_fraction != type(self).model_fields["decay_fraction"].default:
            raise ValueError("decay_fraction is for schedule wsd")
        return self


class GradualUnfreezing(Stored):
    """The top layers learn first, lower ones join (Howard and Ruder 2018, arXiv:1801.06146)."""

    epochs_per_group: float = Field(1.0, gt=0, le=50)
    layers_per_group: int = Field(1, ge=1)
    rate_divisor: float = Field(1.0, ge=1, le=10, description="Rate of a group over that of the one below; paper: 2.6.")
    layers_by_epoch: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list, max_length=50, description="Instead of epochs_per_group and layers_per_group."
    )

    @model_validator(mode="after")
    def _consistent(self) -> GradualUnfreezing:
        if self.layers_by_epoch and (self.epochs_per_group, self.layers_per_group) != (1.0, 1):
            raise ValueError("layers_by_epoch stands instead of epochs_per_group and layers_per_group; set only it")
        if any(later < earlier for earlier, later in pairwise(self.layers_by_epoch)):
            raise ValueError("layers_by_epoch never falls: a layer that learns goes on learning")
        return self


class HalfFineTuning(Stored):
    """A random half of each layer's matrices learns in each round (Hui et al. 2024, arXiv:2404.18466)."""

    steps_per_round: int = Field(0, ge=0, description="0: one epoch.")


class UpdateSchedule(Stored):
    """Which of the learning weights move when; none set: all, always."""

    gradual_unfreezing: GradualUnfreezing | None = None
    half_fine_tuning: HalfFineTuning | None = None

    @model_validator(mode="after")
    def _at_most_one(self) -> UpdateSchedule:
        if self.gradual_unfreezing and self.half_fine_tuning:
            raise ValueError("gradual_unfreezing and half_fine_tuning exclude each other")
        return self

    @property
    def is_set(self) -> bool:
        return bool(self.gradual_unfreezing or self.half_fine_tuning)


OUTSIDE_LAYERS: Mapping[str, str] = {
    "prompt": "vectors before the input",
    "p_tuning": "a network that makes vectors before the input",
    "prefix": "keys and values that one tensor holds for all layers",
}
"""Adaptations whose weights belong to no layer, and what they are."""


def refuse_unfit_schedule(schedule: UpdateSchedule, adaptation: str, *, last_layers: int | None) -> None:
    """
    Args:
        adaptation: its `kind`.
        last_layers: how many layers learn, where the adaptation says it.

    Raises:
        ValueError: the schedule has nothing to choose between.
    """
    if not schedule.is_set:
        return
    if adaptation in OUTSIDE_LAYERS:
        raise ValueError(f"it goes by layers, and `{adaptation}` learns {OUTSIDE_LAYERS[adaptation]}; leave it unset")
    if last_layers is None:
        return
    if schedule.half_fine_tuning and last_layers == 0:
        raise ValueError("half_fine_tuning halves the matrices of layers, and last_layers.layers is 0")
    gradual = schedule.gradual_unfreezing
    if gradual and last_layers <= gradual.layers_per_group and not gradual.layers_by_epoch:
        raise ValueError(
            f"gradual_unfreezing by {gradual.layers_per_group} has nothing to add where last_layers.layers is "
            f"{last_layers}"
        )
    if gradual and max(gradual.layers_by_epoch, default=0) > last_layers:
        raise ValueError(f"layers_by_epoch names more layers than the {last_layers} of last_layers.layers")
