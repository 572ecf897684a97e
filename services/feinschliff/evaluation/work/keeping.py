"""Long work over rows of one table: taken with a lease, kept while it lasts, gone on with where a process died."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from feinschliff.evaluation.work import lease_store
from feinschliff.evaluation.work.failures import PAUSE_FIRST_SECONDS, Fate, failure_of, fate_of
from feinschliff.evaluation.work.lease_store import Lease, Table
from feinschliff.evaluation.work.limits import CRASHES_MAX, REST_SECONDS, Pace
from feinschliff.formats.report import Failure
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import log_context, request_context
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Refusal
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake

log = logging.getLogger(__name__)


class Halted(Exception):
    """The work cannot go on; the resource ends FAILED with this."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Kind(NamedTuple):
    """One kind of long work: its table (with a state and a lease), its unfinished states, and who works.

    `work` ends the resource itself when all is measured; `give_up` ends it with a failure.
    """

    what: str
    table: Table
    unfinished: tuple[str, ...]
    work: Callable[[str], Awaitable[None]]
    give_up: Callable[[str, Failure], None]


class Keeper:
    """Works on unfinished rows of one kind; several processes may do so on the same table, each row by one of them."""

    def __init__(self, database: Database, kind: Kind, clock: Clock, wake: Wake, *, owner: str, pace: Pace) -> None:
        self._database = database
        self._kind = kind
        self._clock = clock
        self._wake = wake
        self._owner = owner
        self._pace = pace
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._crashes: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        """For ever; when cancelled it stops its work and gives the leases back, so that another goes on at once."""
        try:
            while True:
                turn = self._wake.turn
                try:
                    await self._turn()
                except Exception:
                    log.exception("looking failed", extra={"kind": self._kind.what})
                await self._wake.wait(turn, self._pace.reconcile_seconds)
        except asyncio.CancelledError:
            names = list(self._tasks)
            for name in names:
                await self._stop(name)
            await offload(self._release, names)
            raise

    async def _turn(self) -> None:
        rows = await offload(self._unfinished)
        for name in self._tasks.keys() - {row.name for row in rows}:
            if self._tasks[name].done():
                del self._tasks[name]
        for row in rows:
            if row.name in self._tasks:
                if not await offload(self._renew, row):
                    await self._stop(row.name)
            elif self._is_free(row) and await offload(self._claim, row):
                self._tasks[row.name] = asyncio.create_task(self._work(row))

    def _is_free(self, row: Lease) -> bool:
        if len(self._tasks) >= self._pace.runs_at_once or self._not_before.get(row.name, 0) > self._clock.monotonic():
            return False
        return row.lease_owner in ("", self._owner) or row.lease_until <= self._clock.now()

    async def _work(self, row: Lease) -> None:
        with request_context(row.request_id), log_context(work=row.name):
            try:
                await self._kind.work(row.name)
                self._crashes.pop(row.name, None)
            except Halted as halt:
                await offload(self._kind.give_up, row.name, halt.failure)
            except Refusal as refusal:
                await self._refused(row.name, refusal)
            except Exception as error:
                await self._crashed(row.name, error)
            finally:
                if self._tasks.get(row.name) is asyncio.current_task():
                    del self._tasks[row.name]
                self._wake.notify()

    async def _refused(self, name: str, refusal: Refusal) -> None:
        """An outage is waited out; anything else will not change."""
        if fate_of(refusal) is Fate.GIVE_UP:
            await offload(self._kind.give_up, name, failure_of(refusal))
            return
        self._not_before[name] = self._clock.monotonic() + REST_SECONDS
        log.warning("work rests", extra={"work": name, "why": str(refusal)})

    async def _crashed(self, name: str, error: Exception) -> None:
        crashes = self._crashes[name] = self._crashes.get(name, 0) + 1
        self._not_before[name] = self._clock.monotonic() + PAUSE_FIRST_SECONDS * 4**crashes
        log.error("work crashed", exc_info=error, extra={"crashes": crashes, "kind": self._kind.what})
        if crashes >= CRASHES_MAX:
            message = f"The work crashed {crashes} times; the log has the traces."
            await offload(self._kind.give_up, name, Failure(reason="RUN_CRASHED", message=message, retryable=True))

    async def _stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _unfinished(self) -> list[Lease]:
        with self._database.reading() as session:
            return lease_store.unfinished(session, self._kind.table, self._kind.unfinished)

    def _claim(self, row: Lease) -> bool:
        with self._database.transaction() as session:
            return lease_store.claim(session, self._kind.table, row, self._kind.unfinished, self._owner, self._until())

    def _renew(self, row: Lease) -> bool:
        """False where the lease is another's by now; written only once a third of it is used up."""
        until = self._until()
        third = timedelta(seconds=self._pace.lease_seconds / 3)
        if row.lease_owner == self._owner and row.lease_until > until - third:
            return True
        with self._database.transaction() as session:
            return lease_store.keep(session, self._kind.table, row.name, self._owner, until)

    def _release(self, names: list[str]) -> None:
        for name in names:
            with self._database.transaction() as session:
                lease_store.keep(session, self._kind.table, name, self._owner, self._clock.now(), gives_back=True)

    def _until(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self._pace.lease_seconds)
