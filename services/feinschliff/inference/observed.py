"""What became of the latest calls on each route, as far as a canary is judged by it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from feinschliff.inference.canary import Outcome
from feinschliff.inference.engine import Finish
from feinschliff.kit.clock import Clock

CALLS_KEPT = 4096
"""Of each route; a busy one is judged by fewer seconds than its policy's window."""


@dataclass
class _Record:
    time: datetime
    failed: bool = False
    first_token_seconds: float | None = None
    next_token_seconds: float | None = None
    guard_hit: bool = False


class Watch:
    """One call on a route, told of as it goes; what its client broke off does not count, unless a guard was hit."""

    def __init__(self, observations: Observations, place: tuple[str, str]) -> None:
        self._observations = observations
        self._place = place
        self._record: _Record | None = None

    def guard_hit(self) -> None:
        """A guard found something in the call or its answer."""
        self._noted().guard_hit = True

    def ended(self, finish: Finish, token_times: tuple[float, float, float], tokens: int) -> None:
        """
        Args:
            token_times: monotonic seconds of the request, its first and its last token.
        """
        if finish is Finish.CANCELLED:
            return
        record = self._noted()
        if finish is Finish.FAILED:
            record.failed = True
            return
        if record.first_token_seconds is not None:
            return  # one of several answers: the first to end stands for all
        asked, first, last = token_times
        record.first_token_seconds = first - asked
        record.next_token_seconds = (last - first) / (tokens - 1) if tokens > 1 else None

    def _noted(self) -> _Record:
        if self._record is None:
            self._record = self._observations.begin(self._place)
        return self._record


class Observations:
    """The latest calls of each route of each deployment, in this process; for many threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[tuple[str, str], deque[_Record]] = {}

    def watch(self, deployment: str, route: str) -> Watch:
        return Watch(self, (deployment, route))

    def begin(self, place: tuple[str, str]) -> _Record:
        record = _Record(self._clock.now())
        with self._lock:
            self._records.setdefault(place, deque(maxlen=CALLS_KEPT)).append(record)
        return record

    def of(self, deployment: str, routes: Collection[str], since: datetime) -> list[Outcome]:
        """The calls on these routes that ended later than `since`."""
        with self._lock:
            found = [one for route in routes for one in self._records.get((deployment, route), ()) if one.time > since]
        return [
            Outcome(one.time, one.failed, one.first_token_seconds, one.next_token_seconds, one.guard_hit)
            for one in found
        ]

    def keep_only(self, deployments: Collection[str]) -> None:
        """Forgets deployments that are gone."""
        with self._lock:
            self._records = {place: records for place, records in self._records.items() if place[0] in deployments}
