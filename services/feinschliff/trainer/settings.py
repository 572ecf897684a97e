"""The environment of a trainer process."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr

from feinschliff.kit.settings import Settings


class TrainerSettings(Settings):
    """FEINSCHLIFF_ATTEMPT sets `attempt`."""

    attempt: str = Field("", description="`projects/{p}/trainingJobs/{j}/attempts/{n}`; empty with --runfile only.")
    attempt_token: SecretStr = Field(
        SecretStr(""), description="Opens the attempt's runfile and reports, nothing else."
    )
    trainer_threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads of computation, for all processes of a job on this machine; 0: those of the job's first "
        "attempt, or all cores.",
    )
    trainer_rendezvous: str = Field(
        "", description="host:port on the first of several machines, where the processes of a job find each other."
    )
    trainer_restarts_max: int = Field(
        3, ge=0, le=100, description="How often the processes of one attempt begin again together when one died."
    )
    trainer_cache: Path = Field(
        Path("{home}/cache/bases"), description="Folder of unpacked bases; {home} is filled in."
    )
    trainer_features_mib_max: int = Field(
        4096, ge=0, description="MiB of frozen layers' states that a job may keep on disk; 0: compute them each time."
    )
    trainer_tokens_mib_max: int = Field(
        2048, ge=0, description="MiB of encoded rows kept beside the unpacked bases for later jobs; 0: keep none."
    )
    trainer_secrets: Path = Field(
        Path("{home}/secrets"),
        description="Folder of named secrets, each a folder with a file for each of its values; {home} is filled in.",
    )
    trainer_tracker_seconds: float = Field(
        10, ge=0, description="How long a finished trainer waits for trackers to take its last numbers."
    )
    trainer_core_watts: float = Field(
        4.0,
        ge=0,
        description="Power of one busy core, W, for the energy of a machine whose counters cannot be read: near the "
        "3.5 W that Cloud Carbon Footprint takes for a busy virtual core; 0: no estimate.",
    )
    trainer_delivery_seconds: float = Field(
        120, ge=0, description="How long a finished trainer waits for the service to take its last reports."
    )

    @property
    def cache_folder(self) -> Path:
        return Path(str(self.trainer_cache).replace("{home}", str(self.home))).absolute()

    @property
    def tokens_folder(self) -> Path:
        """Encoded rows of earlier jobs."""
        return self.cache_folder.parent / "tokens"

    @property
    def secrets_folder(self) -> Path:
        return Path(str(self.trainer_secrets).replace("{home}", str(self.home))).absolute()

    @property
    def scratch_folder(self) -> Path:
        """Beside the bases, so it is this platform's alone."""
        return self.cache_folder.parent / "scratch"

    def threads(self, recorded: int, *, processes: int = 1) -> int:
        """Threads to compute with in each process; a resumed job keeps the number that it began with, for equal bits.

        Args:
            processes: how many share the machine.
        """
        if self.trainer_threads or not recorded:
            return max(1, (self.trainer_threads or len(os.sched_getaffinity(0))) // processes)
        return recorded
