"""How a workload is seen from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """NOTHING: no such workload is known. RUNNING: it may still act. EXITED: it is gone for good."""

    NOTHING = "NOTHING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known about one workload.

    Args:
        exit_code: how it ended by itself, 0..255; None while it runs, when a signal ended it, and when it vanished.
        signal: number of the signal that ended it; None otherwise.
    """

    name: str
    state: State
    exit_code: int | None = None
    signal: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def vanished(self) -> bool:
        """It ended and nobody saw how: its machine or its watcher was lost."""
        return self.state is State.EXITED and self.exit_code is None and self.signal is None
