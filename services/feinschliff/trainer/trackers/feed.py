"""Numbers on their way to a tracker: from a thread of their own, so that nothing there stops or slows the work."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from feinschliff.trainer.trackers.tracker import Ending, Point, Tracker, TrackerRefused

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
BACKOFF_SECONDS_MAX = 30.0
POINTS_MAX = 10_000  # waiting; beyond, the oldest go
POINTS_PER_CALL = 500


class Feed:
    """Sends what it is given about each second; the first thing that goes wrong is told once.

    The thread and the tracker begin with the first point. What waits is bounded: where a tracker stays away, the oldest
    points are lost, and the job's own record keeps them all.
    """

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._name = name
        self._tracker = tracker
        self._warn = warn
        self._lock = threading.Lock()
        self._waiting: deque[Point] = deque(maxlen=POINTS_MAX)
        self._ending: Ending | None = None
        self._hurry = threading.Event()
        self._is_given_up = False
        self._warned = False
        self._lost = 0
        self._thread: threading.Thread | None = None

    def add(self, point: Point) -> None:
        with self._lock:
            self._lost += len(self._waiting) == POINTS_MAX
            self._waiting.append(point)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"tracker-{self._name}", daemon=True)
                self._thread.start()

    def end(self, ending: Ending) -> None:
        """Nothing more comes; what waits is sent, then the run is closed."""
        self._ending = ending
        self._hurry.set()

    def wait(self, seconds: float) -> None:
        """For at most so long; what is not sent by then is given up."""
        if self._thread is None:
            return
        self._thread.join(timeout=max(0.0, seconds))
        if self._thread.is_alive():
            self._is_given_up = True
            self._trouble("it did not take the last numbers in time")
            self._tracker.abandon()
        if self._lost:
            logger.warning("the tracker lacks numbers", extra={"tracker": self._name, "points": self._lost})

    def _run(self) -> None:
        failures = 0
        while not self._is_given_up:
            self._pause(failures)
            ending, batch = self._ending, self._next()
            try:
                self._tracker.open()
                if batch:
                    self._tracker.log(batch)
                self._sent(batch)
                failures = 0
                if ending is not None and not self._waiting:
                    self._tracker.close(ending)
                    return
            except TrackerRefused as refused:
                self._trouble(str(refused))
                self._tracker.abandon()
                return
            except Exception as error:
                failures += 1
                self._trouble(f"{type(error).__name__}: {error}")

    def _pause(self, failures: int) -> None:
        if not failures:
            self._hurry.wait(FLUSH_SECONDS)
        elif self._hurry.is_set():
            threading.Event().wait(min(FLUSH_SECONDS, 0.1 * 2**failures))
        else:
            self._hurry.wait(min(BACKOFF_SECONDS_MAX, FLUSH_SECONDS * 2**failures))

    def _next(self) -> list[Point]:
        with self._lock:
            return list(self._waiting)[:POINTS_PER_CALL]

    def _sent(self, batch: list[Point]) -> None:
        """Takes away what was sent; some of it may have gone for want of room meanwhile."""
        sent = {id(point) for point in batch}
        with self._lock:
            while self._waiting and id(self._waiting[0]) in sent:
                self._waiting.popleft()

    def _trouble(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(why)
            logger.warning("the tracker does not take numbers", extra={"tracker": self._name, "why": why[:500]})
