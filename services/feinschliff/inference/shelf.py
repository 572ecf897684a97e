"""Things that take long to get: each is got once, in a thread of its own, and kept until it is put back."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from feinschliff.inference.life import Failure, Look, Seen
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import Refusal

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass
class _Place(Generic[V]):
    future: Future[V] = field(default_factory=Future)
    failures: int = 0
    again_at: float = 0.0  # monotonic seconds


class Shelf(Generic[K, V]):
    """Values by key, for many threads; one that failed is not tried again before a pause, which doubles."""

    def __init__(self, clock: Clock, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        self._places: dict[K, _Place[V]] = {}

    def look(self, key: K) -> Look:
        with self._lock:
            place = self._places.get(key)
            if place is None:
                return Look(Seen.NOTHING)
            if not place.future.done():
                return Look(Seen.LOADING)
            error = place.future.exception()
            return Look(Seen.HELD) if error is None else Look(Seen.FAILED, Failure.of(error))

    def held(self, key: K) -> V | None:
        with self._lock:
            place = self._places.get(key)
            if place is None or not place.future.done() or place.future.exception() is not None:
                return None
            return place.future.result()

    def keys(self) -> list[K]:
        with self._lock:
            return list(self._places)

    def get(self, key: K, make: Callable[[], V]) -> Future[V]:
        """The value, now or later; begins to make it unless that runs, is done, or failed a moment ago."""
        with self._lock:
            place = self._places.get(key)
            if place is not None and not self._may_try_again(place):
                return place.future
            place = _Place(failures=place.failures if place else 0)
            self._places[key] = place
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._make, place, make), name="loader", daemon=True).start()
        return place.future

    def take(self, key: K) -> V | None:
        """Removes what is there, unless it is still being made; the value if there was one."""
        with self._lock:
            place = self._places.get(key)
            if place is None or not place.future.done():
                return None
            del self._places[key]
            return None if place.future.exception() is not None else place.future.result()

    def _may_try_again(self, place: _Place[V]) -> bool:
        failed = place.future.done() and place.future.exception() is not None
        return failed and self._clock.monotonic() >= place.again_at

    def _make(self, place: _Place[V], make: Callable[[], V]) -> None:
        try:
            value = make()
        except BaseException as error:
            log = logger.warning if isinstance(error, Refusal) else logger.exception
            log("loading failed: %s", error)
            pause_seconds = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**place.failures)
            place.failures += 1
            place.again_at = self._clock.monotonic() + pause_seconds
            place.future.set_exception(error)
        else:
            place.future.set_result(value)
        self._changed()
