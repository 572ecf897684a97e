"""One granted call, whatever runs for it: on whose behalf, how far it is, and what ends it early."""

from __future__ import annotations

import threading
from collections.abc import Callable

from feinschliff.inference.observed import Watch
from feinschliff.kit.errors import Refusal


class Call:
    """Shared by all answers of a call; any thread may use it.

    Attributes:
        tenant: on whose behalf; those who wait take turns.
        watch: is told what becomes of its answers; None where nobody asks.
        is_waiting: whether all that runs for it waits for a place in the batch.
        cut_by: why it is ended before its time; None while it is not.
    """

    def __init__(self) -> None:
        self.tenant = ""
        self.watch: Watch | None = None
        self.is_waiting = False
        self.cut_by: Refusal | None = None
        self._has_started = False
        self._lock = threading.Lock()
        self._aborts: list[Callable[[], None]] = []

    def queue(self) -> None:
        """An answer waits for its place."""
        self.is_waiting = not self._has_started

    def start(self) -> None:
        """An answer has its place, or needs none any more."""
        self._has_started = True
        self.is_waiting = False

    def guard_hit(self) -> None:
        """A guard found something in the call, or in its answer."""
        if self.watch is not None:
            self.watch.guard_hit()

    def when_cut(self, abort: Callable[[], None]) -> None:
        """What ends the work early; called at once where the call is cut already."""
        with self._lock:
            self._aborts.append(abort)
            is_cut = self.cut_by is not None
        if is_cut:
            abort()

    def cut(self, refusal: Refusal) -> None:
        """Ends what runs for it; its caller gets the refusal."""
        with self._lock:
            self.cut_by = refusal
            aborts = list(self._aborts)
        for abort in aborts:
            abort()

    def raise_if_cut(self) -> None:
        if self.cut_by is not None:
            raise self.cut_by
