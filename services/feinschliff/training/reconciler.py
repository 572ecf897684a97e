"""Looks at every job that is not over, decides by the table, acts, and looks again."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from feinschliff.artifacts.commit import read_manifest
from feinschliff.artifacts.store import Store
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import log_context
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Conflict, Refusal
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.watch import Wake
from feinschliff.training import store
from feinschliff.training.acts import Acts, Plan, Registrar, over_time, workload_of
from feinschliff.training.life import DECIDE, Act, Seen, State, seen_after_exit
from feinschliff.training.meters import Live, Meters
from feinschliff.training.slots import Slots
from feinschliff.training.store import Job
from feinschliff.workloads import status
from feinschliff.workloads.runner import Runner
from feinschliff.workloads.status import Observation, Trouble

log = logging.getLogger(__name__)


class Reconciler:
    """One of possibly many: leases and row versions make acting twice harmless."""

    def __init__(
        self,
        database: Database,
        artifacts: Store,
        runner: Runner,
        registrar: Registrar,
        plan: Plan,
        metrics: Metrics,
        live: Live,
        *,
        clock: Clock,
        wake: Wake,
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._runner = runner
        self._plan = plan
        self._metrics = metrics
        self._meters = Meters(metrics)
        self._live = live
        self._acts = Acts(database, artifacts, runner, registrar, plan, self._meters)
        self._clock = clock
        self._wake = wake
        self._awake_since = clock.now()
        self._counted_until: dict[str, datetime] = {}
        self._log_kept: dict[str, datetime] = {}
        self._pending: set[str] = set()

    def turn(self) -> None:
        """One look at all jobs; one bad job never stops the others."""
        with self._metrics.histogram("feinschliff_training_reconcile_seconds").time():
            with self._database.reading() as session:
                jobs = store.jobs_to_look_at(session, self._plan.owner, self._clock.now())
                slots = Slots(self._plan.profiles, [one.profile for one in store.jobs_under_way(session)])
            for job in jobs:
                with log_context(job=job.name):
                    self._handle_safely(job, slots)
            self._count(slots)

    def _handle_safely(self, job: Job, slots: Slots) -> None:
        try:
            self._handle(job, slots)
        except Conflict:
            log.info("someone else moved the job first")
        except Refusal as refusal:
            self._meters.turn_failed()
            log.warning("the job has to wait: %s", refusal.message, extra={"reason": refusal.reason})
        except Exception:
            self._meters.turn_failed()
            log.exception("the job could not be handled in this turn")

    def _handle(self, job: Job, slots: Slots) -> None:
        now = self._clock.now()
        if job.state is State.QUEUED and (job.not_before > now or not slots.is_free(job.profile)):
            return
        job = self._leased(job, now)
        seen, observed = self._look(job)
        self._account(job, seen, now)
        act = DECIDE.get((job.state, seen))
        if act is None:
            if observed is not None:
                self._guard(job, observed, now)
            return
        log.info("acting", extra={"act": act.value, "state": job.state.value, "seen": seen.value})
        match act:
            case Act.START:
                slots.take(job.profile)
                self._acts.start(job, now)
            case Act.STOP:
                self._acts.stop(job)
            case _:
                self._acts.end(job, act, seen, observed, now)
                slots.give(job.profile)
        self._wake.notify()

    def _leased(self, job: Job, now: datetime) -> Job:
        half = timedelta(seconds=self._plan.lease_seconds / 2)
        if job.lease_owner == self._plan.owner and job.lease_until > now + half:
            return job
        with self._database.transaction() as session:
            return store.take_lease(session, job, self._plan.owner, now, self._plan.lease_seconds)

    def _look(self, job: Job) -> tuple[Seen, Observation | None]:
        if job.state is State.QUEUED:
            return Seen.NOTHING, None
        observed = self._runner.observe(workload_of(job))
        if observed.state in (status.State.PENDING, status.State.RUNNING):
            return Seen[observed.state.name], observed
        committed = read_manifest(self._artifacts, f"{job.name}/result") is not None
        if observed.state is status.State.NOTHING:
            return (Seen.FINISHED if committed else Seen.NOTHING), observed
        return seen_after_exit(observed.exit_code, result_committed=committed), observed

    def _guard(self, job: Job, observed: Observation, now: datetime) -> None:
        """Looks after an attempt that waits or runs: says what it waits for, keeps its log, and ends it in time."""
        trouble = observed.trouble
        if trouble is not None:
            self._acts.tell_trouble(job, trouble, now)
            if _is_hopeless(trouble, now):
                log.warning("giving the attempt up", extra={"reason": trouble.reason, "why": trouble.message})
                self._acts.give_up(job, trouble)
                return
        if observed.state is status.State.PENDING:
            return
        if job.attempt == 1 and job.started and observed.started and observed.started > job.started:
            self._acts.began(job, observed.started)
            return
        self._keep_log(job, now)
        silent = self._silent_seconds(job, observed, now) > self._plan.stall_seconds
        if silent or over_time(job, now):
            log.warning("stopping the attempt", extra={"silent": silent})
            self._acts.stop(job)

    def _silent_seconds(self, job: Job, observed: Observation, now: datetime) -> float:
        with self._database.reading() as session:
            attempt = store.get_attempt(session, job.attempt_name)
        signs = [self._awake_since, attempt.heartbeat if attempt else None, observed.started]
        return (now - max(sign for sign in signs if sign is not None)).total_seconds()

    def _keep_log(self, job: Job, now: datetime) -> None:
        every = self._plan.log_seconds
        if every and (now - self._log_kept.setdefault(job.name, now)).total_seconds() >= every:
            self._log_kept[job.name] = now
            self._acts.keep_log(job)

    def _account(self, job: Job, seen: Seen, now: datetime) -> None:
        """Counts the time since the last look, where the attempt held its machine then."""
        before = self._counted_until.pop(job.name, None)
        if before is not None:
            seconds = min(max(0.0, (now - before).total_seconds()), self._plan.lease_seconds)
            self._meters.ran(job, self._plan.profiles.get(job.profile), seconds)
        if seen is Seen.RUNNING:
            self._counted_until[job.name] = now
        (self._pending.add if seen is Seen.PENDING else self._pending.discard)(job.name)

    def _count(self, slots: Slots) -> None:
        with self._database.reading() as session:
            counts = store.count_by_state(session)
            under_way = store.jobs_under_way(session)
        ours = {one.name for one in under_way if one.owner == self._plan.owner}
        self._pending &= ours
        for gone in self._log_kept.keys() - ours:
            del self._log_kept[gone]
        self._live.keep({one.name for one in under_way})
        self._meters.look(counts, slots, in_flight=len(ours), pending=len(self._pending))


def _is_hopeless(trouble: Trouble, now: datetime) -> bool:
    if trouble.patience_seconds is None or trouble.since is None:
        return False
    return (now - trouble.since).total_seconds() > trouble.patience_seconds
