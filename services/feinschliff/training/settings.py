"""The environment of the training service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from feinschliff.kit.settings import Settings


class TrainingSettings(Settings):
    """FEINSCHLIFF_TRAINING_SLOTS sets `training_slots`."""

    training_port: int = Field(50052, ge=0, le=65535, description="Port of the gRPC server.")
    training_metrics_port: int = Field(9102, ge=0, le=65535, description="Port of the metrics.")
    training_slots: int = Field(1, ge=1, le=1000, description="Attempts that may run at once.")
    training_turn_seconds: float = Field(0.5, gt=0, description="Between two looks of the reconciler.")
    training_lease_seconds: float = Field(
        15, gt=1, description="How long a job stays with a reconciler that is silent."
    )
    training_stall_seconds: float = Field(
        300, gt=1, description="An attempt without a sign of life for this long is stopped and begun again."
    )
    training_stop_seconds: float = Field(60, ge=0, description="From asking an attempt to stop to killing it.")
    training_workloads: Path = Field(
        Path("{home}/workloads"), description="Folder of the attempts' processes; {home} is filled in."
    )
    training_cache: Path = Field(
        Path("{home}/cache"), description="Folder for base models and prepared data; {home} is filled in."
    )

    def folder(self, path: Path) -> Path:
        """`path` with {home} filled in, absolute."""
        return Path(str(path).replace("{home}", str(self.home))).absolute()
