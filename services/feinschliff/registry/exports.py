"""The lives of exports: asked for, worked at by one copy of the room at a time, over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import Conflict, NotFound, WrongState
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.watch import Wake
from feinschliff.registry import store
from feinschliff.registry.models import MODEL, Asked
from feinschliff.registry.store import LEDGER, Export

EXPORT = MODEL + "/exports/{export}"
QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
FINAL = (SUCCEEDED, FAILED, CANCELLED)
LEASE_SECONDS = 60.0  # how long an export stays with a copy of the room that is silent
RETRY_SECONDS = 5.0  # after something did not answer
WORKERS_LOST_MAX = 3  # one that kills the room each time, such as by its size, must not do so for ever


class Exports:
    """Every method is one use case and one short transaction; all may be called from any thread."""

    def __init__(self, database: Database, metrics: Metrics, *, clock: Clock, wake: Wake) -> None:
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._wake = wake

    def ask(self, model: str, wish: Mapping[str, Any], asked: Asked) -> Export:
        """Queues one; the same request queues it once."""
        export = self.draft(model, wish)
        with self._database.transaction() as session:

            def make() -> str:
                store.insert(session, export)
                return export.name

            scope = f"CombineAdapters {model}"
            name = LEDGER.once(session, scope, asked.request_id, asked.body_digest, make)
            result = _export(session, name)
        self._wake.notify()
        return result

    def draft(self, model: str, wish: Mapping[str, Any]) -> Export:
        """An export as it would be stored."""
        now = self._clock.now()
        project = f"projects/{names.parse(MODEL, model, field='parent')['project']}"
        name = f"{model}/exports/{names.new_id('export-')}"
        return Export(name, model, project, QUEUED, wish, created=now, lease_until=now)

    def get(self, name: str) -> Export:
        """Raises NotFound EXPORT_NOT_FOUND."""
        names.parse(EXPORT, name)
        with self._database.reading() as session:
            return _export(session, name)

    def cancel(self, name: str) -> Export:
        """Ends one that is not over; who works at it notices at its next step. Asking twice changes nothing.

        Raises:
            WrongState: EXPORT_STATE_FORBIDS for one that is over in another way.
        """
        names.parse(EXPORT, name)
        with self._database.transaction() as session:
            export = _export(session, name)
            if export.state == CANCELLED:
                return export
            if export.state in FINAL:
                message = f"{name} is {export.state}; it cannot be cancelled."
                raise WrongState("EXPORT_STATE_FORBIDS", message, export=name, state=export.state)
            export = store.save(session, export, state=CANCELLED, finished=self._clock.now())
        self._told(export)
        return export

    def due(self) -> list[str]:
        """Those that wait, and those whose worker has fallen silent."""
        with self._database.reading() as session:
            return store.exports_due(session, (QUEUED, RUNNING), self._clock.now())

    def take(self, name: str) -> Export | None:
        """The export, to be worked at until its lease ends; None where somebody else was quicker.

        One whose workers fell silent too often ends here.
        """
        now = self._clock.now()
        try:
            with self._database.transaction() as session:
                export = _export(session, name)
                if export.state in FINAL or export.lease_until > now:
                    return None
                lost = export.workers_lost + (export.state == RUNNING)
                if lost < WORKERS_LOST_MAX:
                    until = now + timedelta(seconds=LEASE_SECONDS)
                    return store.save(session, export, state=RUNNING, lease_until=until, workers_lost=lost)
            self.end(export, FAILED, workers_lost=lost, failure=_abandoned(lost))
        except Conflict:
            pass
        return None

    def keep(self, export: Export, **changes: Any) -> Export:
        """Notes progress and prolongs the lease.

        Raises:
            Conflict: ROW_CHANGED where it was cancelled or taken over.
        """
        until = self._clock.now() + timedelta(seconds=LEASE_SECONDS)
        with self._database.transaction() as session:
            export = store.save(session, export, lease_until=until, **changes)
        self._wake.notify()
        return export

    def put_back(self, export: Export) -> None:
        """To be tried again in a while."""
        until = self._clock.now() + timedelta(seconds=RETRY_SECONDS)
        with self._database.transaction() as session:
            store.save(session, export, state=QUEUED, lease_until=until)

    def end(self, export: Export, state: str, **changes: Any) -> Export:
        with self._database.transaction() as session:
            export = store.save(session, export, state=state, finished=self._clock.now(), **changes)
        self._told(export)
        return export

    def _told(self, export: Export) -> None:
        self._metrics.counter("feinschliff_registry_exports_finished_total").labels(export.state).inc()
        self._wake.notify()


def _abandoned(lost: int) -> dict[str, Any]:
    return {
        "reason": "EXPORT_ABANDONED",
        "message": f"{lost} copies of the registry vanished while they worked at it, perhaps for want of memory.",
        "advice": ["Combine fewer or smaller adapters, or give the registry more memory."],
        "retryable": False,
    }


def _export(session: Session, name: str) -> Export:
    export = store.find(session, Export, name)
    if export is None:
        raise NotFound("EXPORT_NOT_FOUND", f"There is no export {name}.", export=name)
    return export
