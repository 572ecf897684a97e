"""How a workload is seen from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class State(StrEnum):
    """NOTHING: no such workload is known. PENDING: accepted, waits for its place; it has not begun. RUNNING: it may
    still act. EXITED: it is gone for good.
    """

    NOTHING = "NOTHING"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a workload does not start, or why its machine ended it: seen from outside, in the words of a `Failure`.

    Args:
        reason: stable name, see the table in `workloads.troubles`.
        retryable: whether another attempt may help without a change by a person.
        blameless: the machine went away and the work is not at fault; such an end counts as no failed attempt.
        since: when it was first seen; None where that is not known.
        patience_seconds: how long it may last while PENDING or RUNNING before the attempt is given up; None: for ever.
    """

    reason: str
    message: str
    advice: tuple[str, ...] = ()
    retryable: bool = True
    blameless: bool = False
    since: datetime | None = None
    patience_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known about one workload.

    Args:
        exit_code: how it ended by itself, 0..255; None while it runs, when a signal ended it, and when it vanished.
        signal: number of the signal that ended it; None otherwise.
        started: when it left PENDING; None before, and where the runner does not know.
        trouble: what keeps it from starting, or what ended it; None where nothing is wrong or nothing is known.
    """

    name: str
    state: State
    exit_code: int | None = None
    signal: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    started: datetime | None = None
    trouble: Trouble | None = None

    @property
    def vanished(self) -> bool:
        """It ended and nobody saw how: its machine or its watcher was lost."""
        return self.state is State.EXITED and self.exit_code is None and self.signal is None
