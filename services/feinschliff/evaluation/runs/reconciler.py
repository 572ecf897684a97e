"""Looks at the runs, decides, acts, looks again; several processes may do so on the same tables."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta

from feinschliff.evaluation import store
from feinschliff.evaluation.evaluations import Evaluations
from feinschliff.evaluation.life import Act, Seen, State, decide
from feinschliff.evaluation.prompts.book import PromptBook
from feinschliff.evaluation.resources import Run
from feinschliff.evaluation.runs.plan import prompt_named_by
from feinschliff.evaluation.runs.runs import Runs
from feinschliff.evaluation.runs.worker import Worker
from feinschliff.evaluation.work.failures import PAUSE_FIRST_SECONDS, Fate, fate_of
from feinschliff.evaluation.work.limits import CRASHES_MAX, REST_SECONDS, Pace
from feinschliff.formats.report import Failure
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import log_context, request_context
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Conflict, Refusal
from feinschliff.kit.failpoints import fail
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake

log = logging.getLogger(__name__)


class Reconciler:
    """Starts queued runs and runs whose process died, keeps the leases of its own, and stops cancelled ones."""

    def __init__(
        self,
        database: Database,
        evaluations: Evaluations,
        runs: Runs,
        worker: Worker,
        metrics: Metrics,
        clock: Clock,
        wake: Wake,
        *,
        owner: str,
        pace: Pace,
        prompts: PromptBook,
    ) -> None:
        self._database = database
        self._evaluations = evaluations
        self._runs = runs
        self._worker = worker
        self._prompts = prompts
        self._clock = clock
        self._wake = wake
        self._owner = owner
        self._pace = pace
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[str] = set()
        self._crashes: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._by_state = metrics.gauge("feinschliff_evaluation_runs")
        self._finished = metrics.counter("feinschliff_evaluation_runs_finished_total")
        self._seconds = metrics.histogram("feinschliff_evaluation_run_seconds")
        self._turn_seconds = metrics.histogram("feinschliff_evaluation_reconcile_seconds")
        self._errors = metrics.counter("feinschliff_evaluation_reconcile_errors_total")

    async def run(self) -> None:
        """For ever; when cancelled it stops its runs and gives their leases back, so that another goes on at once."""
        try:
            while True:
                turn = self._wake.turn
                with self._turn_seconds.time():
                    await self.turn()
                await self._wake.wait(turn, self._pace.reconcile_seconds)
        except asyncio.CancelledError:
            await self._leave()
            raise

    async def turn(self) -> None:
        """One look at every run that is not over; one bad run never stops the others."""
        runs, counts = await offload(self._look)
        for state in State:
            self._by_state.labels(state.value).set(counts.get(state, 0))
        await self._drop_tasks_without_a_run({run.name for run in runs})
        for run in runs:
            try:
                await self._act(decide(run.state, self._seen(run), has_room=self._has_room(run)), run)
            except Conflict:
                log.info("another process was faster", extra={"run": run.name})
            except Exception:
                self._errors.inc()
                log.exception("run could not be handled", extra={"run": run.name})

    def _look(self) -> tuple[list[Run], Mapping[State, int]]:
        with self._database.reading() as session:
            return store.unfinished_runs(session), store.count_by_state(session)

    def _seen(self, run: Run) -> Seen:
        if run.name in self._tasks:
            return Seen.US
        is_leased = run.lease_owner not in ("", self._owner) and run.lease_until > self._clock.now()
        return Seen.OTHERS if is_leased else Seen.NOBODY

    def _has_room(self, run: Run) -> bool:
        is_resting = self._not_before.get(run.name, 0.0) > self._clock.monotonic()
        return len(self._tasks) < self._pace.runs_at_once and not is_resting

    async def _act(self, act: Act, run: Run) -> None:
        match act:
            case Act.START:
                claimed = await offload(self._claim, run)
                self._tasks[run.name] = asyncio.create_task(self._work(claimed))
            case Act.KEEP:
                if not await offload(self._renew, run):
                    await self._stop(run.name)
            case Act.STOP:
                await self._stop(run.name)
                await self._finish(run.name, None)
            case Act.MARK_CANCELLED:
                await self._finish(run.name, None)
            case Act.NOTHING:
                pass

    async def _work(self, run: Run) -> None:
        with request_context(run.request_id), log_context(run=run.name):
            try:
                log.info("run starts", extra={"done": run.done, "total": run.total})
                eval_ = await offload(self._evaluations.get, run.eval)
                named = prompt_named_by(run, eval_)
                stored = await offload(self._prompts.get, named) if named else None
                failure = await self._worker.execute(run, eval_, stored)
                self._ending.add(run.name)
                await offload(fail, "evaluation.before_finish")
                await self._finish(run.name, failure)
            except Exception as error:
                await self._crashed(run.name, error)
            finally:
                self._ending.discard(run.name)
                if self._tasks.get(run.name) is asyncio.current_task():
                    del self._tasks[run.name]
                self._wake.notify()

    async def _crashed(self, name: str, error: Exception) -> None:
        """An outage is waited out; a fault of ours is tried again with growing pauses, and given up after some."""
        if _passes_by_itself(error):
            self._not_before[name] = self._clock.monotonic() + REST_SECONDS
            log.warning("run rests", extra={"run": name, "why": str(error)})
            return
        self._errors.inc()
        crashes = self._crashes[name] = self._crashes.get(name, 0) + 1
        self._not_before[name] = self._clock.monotonic() + PAUSE_FIRST_SECONDS * 4**crashes
        log.error("run crashed", exc_info=error, extra={"crashes": crashes})
        if crashes >= CRASHES_MAX:
            message = f"The run crashed {crashes} times; the log has the traces."
            await self._finish(name, Failure(reason="RUN_CRASHED", message=message, retryable=True))

    async def _finish(self, name: str, failure: Failure | None) -> None:
        ended = await offload(self._runs.finish, name, self._owner, failure)
        self._crashes.pop(name, None)
        if ended is None or ended.finished is None:
            return
        self._finished.labels(ended.state.value).inc()
        self._seconds.observe((ended.finished - ended.created).total_seconds())
        log.info("run ends", extra={"run": name, "state": ended.state.value, "done": ended.done})

    async def _stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _drop_tasks_without_a_run(self, unfinished: set[str]) -> None:
        for name in self._tasks.keys() - unfinished - self._ending:
            await self._stop(name)

    async def _leave(self) -> None:
        names = list(self._tasks)
        for name in names:
            await self._stop(name)
        await offload(self._release, names)

    def _claim(self, run: Run) -> Run:
        with self._database.transaction() as session:
            return store.claim(session, run, self._owner, self._clock.now(), self._pace.lease_seconds)

    def _renew(self, run: Run) -> bool:
        """False where the lease is another's by now; written only once a third of it is used up."""
        until = self._clock.now() + timedelta(seconds=self._pace.lease_seconds)
        if run.lease_owner == self._owner and run.lease_until > until - timedelta(seconds=self._pace.lease_seconds / 3):
            return True
        with self._database.transaction() as session:
            return store.renew(session, run.name, self._owner, until)

    def _release(self, names: list[str]) -> None:
        for name in names:
            with self._database.transaction() as session:
                store.release(session, name, self._owner, self._clock.now())


def _passes_by_itself(error: Exception) -> bool:
    """An outage, or a run that somebody else has ended meanwhile."""
    if isinstance(error, ExceptionGroup):
        return all(_passes_by_itself(one) for one in error.exceptions)
    return isinstance(error, Refusal) and (fate_of(error) is Fate.WAIT or error.reason == "RUN_OVER")
