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
        0, ge=0, le=1024, description="Threads of computation; 0: those of the job's first attempt, or all cores."
    )
    trainer_cache: Path = Field(
        Path("{home}/cache/bases"), description="Folder of unpacked bases; {home} is filled in."
    )
    trainer_delivery_seconds: float = Field(
        120, ge=0, description="How long a finished trainer waits for the service to take its last reports."
    )

    @property
    def cache_folder(self) -> Path:
        return Path(str(self.trainer_cache).replace("{home}", str(self.home))).absolute()

    @property
    def scratch_folder(self) -> Path:
        """Beside the bases, so it is this platform's alone."""
        return self.cache_folder.parent / "scratch"

    def threads(self, recorded: int) -> int:
        """Threads to compute with; a resumed job keeps the number that it began with, for equal bits."""
        return self.trainer_threads or recorded or len(os.sched_getaffinity(0))
