"""How hard long work tries, and how often somebody looks after it."""

from __future__ import annotations

from typing import NamedTuple

CRASHES_MAX = 5
REST_SECONDS = 2.0


class Pace(NamedTuple):
    """How many runs one process takes, how long a lease holds, and how often it looks."""

    runs_at_once: int
    lease_seconds: float
    reconcile_seconds: float


class Limits(NamedTuple):
    """How hard a run tries."""

    concurrency: int
    attempts: int
    patience_seconds: float
