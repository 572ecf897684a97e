"""Reports on their way to the service: kept until it has them, whatever happens in between."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from feinschliff.formats.base import Stored
from feinschliff.formats.report import Failure, Progress, Report
from feinschliff.kit.errors import Denied, Invalid, NotFound, Refusal, Unauthenticated, WrongState
from feinschliff.kit.failpoints import fail
from feinschliff.trainer.stop import Stop, Why

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
SIGN_OF_LIFE_SECONDS = 8.0
BACKOFF_SECONDS_MAX = 10.0
REPORTS_PER_FLUSH = 200


class Posted(Stored):
    """A report and when it was measured."""

    time: datetime
    report: Report


class Asked(NamedTuple):
    """What the service wants of the attempt."""

    why: Why | None = None
    save_now: bool = False


class Link(Protocol):
    """The way to whoever watches the attempt."""

    def send(self, reports: Sequence[Posted]) -> Asked:
        """Hand over reports; none is a sign of life. Returning means that they are stored.

        Raises:
            Refusal: nothing is known about what was stored; sending again is harmless.
        """
        ...

    def finish(self, *, result_prefix: str = "", failure: Failure | None = None) -> None:
        """Say that the attempt is over: with a result, failed, or (neither) to be resumed."""
        ...


class Outbox:
    """Reports that the service does not have yet, in order; a key appears once. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, Posted] = {}
        self._progress: Posted | None = None

    def post(self, report: Report, *, time: datetime | None = None) -> None:
        posted = Posted(time=time or datetime.now(UTC), report=report)
        with self._lock:
            if isinstance(report, Progress):
                self._progress = posted
            else:
                self._kept.setdefault(report.key, posted)

    def unacknowledged(self) -> list[Posted]:
        with self._lock:
            return list(self._kept.values())

    def next_batch(self) -> list[Posted]:
        """The oldest reports, and where the attempt stands."""
        with self._lock:
            batch = list(self._kept.values())[:REPORTS_PER_FLUSH]
            return batch + ([self._progress] if self._progress else [])

    def acknowledge(self, batch: Sequence[Posted]) -> None:
        with self._lock:
            for posted in batch:
                if isinstance(posted.report, Progress):
                    if self._progress is posted:
                        self._progress = None
                elif self._kept.get(posted.report.key) is posted:
                    del self._kept[posted.report.key]


class Reporter:
    """Sends the outbox about each second from a thread of its own; a service that is down never stops the work."""

    def __init__(self, outbox: Outbox, link: Link, stop: Stop) -> None:
        self._outbox = outbox
        self._link = link
        self._stop = stop
        self._ending = threading.Event()
        self._sending = threading.Lock()
        self._last_contact_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, *, wait_seconds: float) -> bool:
        """Deliver all that is left, for at most so long; says whether nothing is left."""
        self._ending.set()
        deadline = time.monotonic() + wait_seconds
        self._thread.join(timeout=max(1.0, wait_seconds))
        pause = 0.2
        while not self._thread.is_alive() and self._outbox.unacknowledged():
            if self._flush():
                continue
            if time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
            pause = min(2 * pause, BACKOFF_SECONDS_MAX)
        return not self._outbox.unacknowledged()

    def _run(self) -> None:
        pause = FLUSH_SECONDS
        while not self._ending.wait(pause):
            pause = FLUSH_SECONDS if self._flush() else min(2 * pause, BACKOFF_SECONDS_MAX)

    def _flush(self) -> bool:
        """Send one batch, or a sign of life when one is due."""
        batch = self._outbox.next_batch()
        silent_seconds = time.monotonic() - self._last_contact_seconds
        if not batch and silent_seconds < SIGN_OF_LIFE_SECONDS:
            return True
        with self._sending:
            try:
                return self._send(batch)
            except Refusal as refusal:
                return self._on_refusal(refusal, batch)
            except Exception:  # a thread that must not die: the reports stay and are sent again
                logger.exception("reporting failed", extra={"waiting": len(batch)})
                return False

    def _send(self, batch: Sequence[Posted]) -> bool:
        fail("report.before_send")
        asked = self._link.send(batch)
        fail("report.after_send")
        self._outbox.acknowledge(batch)
        self._last_contact_seconds = time.monotonic()
        if asked.why is not None:
            self._stop.ask(asked.why)
        if asked.save_now:
            self._stop.ask_to_save()
        return True

    def _on_refusal(self, refusal: Refusal, batch: Sequence[Posted]) -> bool:
        if isinstance(refusal, Unauthenticated | Denied | NotFound | WrongState):
            logger.error("the job is no longer this attempt's", extra={"reason": refusal.reason})
            self._stop.ask(Why.SUPERSEDED)
            self._outbox.acknowledge(batch)
            return False
        if isinstance(refusal, Invalid):
            return self._send_singly(batch)
        logger.warning("reports wait", extra={"reason": refusal.reason, "waiting": len(batch)})
        return False

    def _send_singly(self, batch: Sequence[Posted]) -> bool:
        """One report that the service will never take must not hold up the others."""
        for posted in batch:
            try:
                self._send([posted])
            except Invalid as refusal:
                logger.error("a report is dropped", extra={"reason": refusal.reason, "report": posted.report.kind})
                self._outbox.acknowledge([posted])
            except Refusal:
                return False
        return True
