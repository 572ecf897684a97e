"""Execution profiles: where attempts may run and with what, owned by whoever runs the platform, chosen by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from feinschliff.kit.errors import Invalid, StartError

LOCAL = "local"
PROCESSES_MAX = 16
_NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"


class Profile(BaseModel):
    """One kind of machine. From `image` on, only a cluster's runner reads it, in Kubernetes's own words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_NAME)
    description: str = Field("", max_length=500)
    slots: int = Field(1, ge=1, le=10_000, description="Attempts that may run with it at once.")
    price_per_hour: float = Field(0.0, ge=0, description="Of one node, in the currency of the price table; 0: free.")
    gpus: int = Field(0, ge=0, le=64, description="GPUs of one node.")
    nodes_max: int = Field(1, ge=1, le=64, description="Nodes that one job may take.")
    processes_max: int = Field(
        0, ge=0, le=16, description="Processes that one job may start on a node; 0: its GPUs, or 1 without any."
    )
    image: str = Field("", description="Image of the trainer; needed on a cluster.")
    image_pull_policy: str = Field("IfNotPresent", pattern="^(Always|IfNotPresent|Never)$")
    image_pull_secrets: tuple[str, ...] = ()
    resources: Mapping[str, Mapping[str, str]] = Field(default_factory=dict, description="requests and limits.")
    node_selector: Mapping[str, str] = Field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = Field(default_factory=dict)
    priority_class: str = ""
    runtime_class: str = ""
    service_account: str = Field("", description="Of the pods, without its token; empty: the namespace's default.")
    queue: str = Field("", description="Kueue's local queue; empty: not queued by Kueue.")
    env: Mapping[str, str] = Field(default_factory=dict, description="Settings of the trainer, beside our own.")
    secrets: tuple[str, ...] = Field((), description="Secrets of the namespace that recipes may name for trackers.")
    trackers: tuple[str, ...] = Field((), description="Trackers that the image has beside MLflow: `wandb`.")
    labels: Mapping[str, str] = Field(default_factory=dict, description="Of the pods, beside our own.")
    annotations: Mapping[str, str] = Field(default_factory=dict, description="Of the pods.")
    volumes: tuple[Mapping[str, Any], ...] = ()
    volume_mounts: tuple[Mapping[str, Any], ...] = ()
    scratch: str = Field("20Gi", description="Largest size of the pod's own files.")
    shared_memory: str = Field("2Gi", description="Largest size of /dev/shm.")
    ttl_seconds: int = Field(3600, ge=0, description="How long a finished Job is kept for people to look at.")

    @property
    def processes_limit(self) -> int:
        """Processes that one job may start on a node."""
        return self.processes_max or min(max(1, self.gpus), PROCESSES_MAX)


class Profiles(BaseModel):
    """The file of profiles, and which one serves jobs that name none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: str
    currency: str = Field("EUR", min_length=1, max_length=8, description="Unit of every price.")
    profiles: tuple[Profile, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _is_whole(self) -> Profiles:
        names = self.names
        if len(set(names)) != len(names):
            raise ValueError("two profiles have the same name")
        if self.default not in names:
            raise ValueError(f"default: {self.default!r} is none of {', '.join(names)}")
        return self

    @property
    def names(self) -> list[str]:
        return [profile.name for profile in self.profiles]

    def price_per_hour(self, name: str) -> float:
        """Of one node; 0 for a profile that was taken out of the file while work runs with it."""
        return next((profile.price_per_hour for profile in self.profiles if profile.name == name), 0.0)

    def get(self, name: str) -> Profile:
        """The profile of that name; the default one for an empty name.

        Raises:
            Invalid: EXECUTION_PROFILE_UNKNOWN.
        """
        for profile in self.profiles:
            if profile.name == (name or self.default):
                return profile
        raise Invalid(
            "EXECUTION_PROFILE_UNKNOWN",
            f"There is no execution profile {name!r}; this installation has {', '.join(self.names)}.",
            execution_profile=name,
            known=", ".join(self.names),
        )


def local_profiles(slots: int) -> Profiles:
    """What a machine without a file of profiles has: itself, with a process for each core at most, but two anyway."""
    processes = max(2, min(len(os.sched_getaffinity(0)), PROCESSES_MAX))
    here = Profile(name=LOCAL, description="This machine.", slots=slots, processes_max=processes)
    return Profiles(default=LOCAL, profiles=(here,))


def read_profiles(path: Path, *, variable: str) -> Profiles:
    """The profiles of a JSON file.

    Raises:
        StartError: naming `variable`, the file, and each wrong field by its path.
    """
    try:
        return Profiles.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StartError([f"{variable}: cannot read {path}: {error.strerror}"]) from None
    except ValidationError as error:
        wrong = [f"{'.'.join(str(part) for part in one['loc']) or 'file'}: {one['msg']}" for one in error.errors()]
        raise StartError([f"{variable}: {path}: {line}" for line in wrong]) from None
