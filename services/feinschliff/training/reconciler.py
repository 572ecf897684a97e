"""Looks at every job that is not over, decides by the table, acts, and looks again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from feinschliff.artifacts.commit import read_manifest
from feinschliff.artifacts.store import Store
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import log_context
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import Conflict, Refusal
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.watch import Wake
from feinschliff.training import endings, leftovers, store
from feinschliff.training.acts import Acts, Plan, Registrar, over_time, workload_of
from feinschliff.training.life import DECIDE, Act, Seen, State, seen_after_exit
from feinschliff.training.meters import Live, Meters
from feinschliff.training.slots import Slots
from feinschliff.training.store import Job
from feinschliff.workloads import status
from feinschliff.workloads.runner import Runner
from feinschliff.workloads.status import Observation, Trouble

log = logging.getLogger(__name__)

CLEAR_SECONDS = 300.0
CLUSTER_UNAVAILABLE = "WORKLOAD_CLUSTER_UNAVAILABLE"


@dataclass
class _Memory:
    """What this process knows of an attempt under way beyond the tables; whoever takes over begins without it."""

    attempt: int
    is_pending: bool = False
    is_stopping: bool = False
    told_to_pause: datetime | None = None
    told: str = ""
    counted_until: datetime | None = None
    log_kept: datetime | None = None


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
        self._memories: dict[str, _Memory] = {}
        self._clear_at = self._awake_since

    def turn(self) -> None:
        """One look at all jobs; one bad job never stops the others."""
        with self._metrics.histogram("feinschliff_training_reconcile_seconds").time():
            now = self._clock.now()
            with self._database.reading() as session:
                jobs = store.jobs_to_look_at(session, self._plan.owner, now)
            if all(self._handle_safely(job) for job in jobs):
                self._begin_those_due(now)
            self._count()
        if now >= self._clear_at:
            self._clear_at = now + timedelta(seconds=CLEAR_SECONDS)
            leftovers.clear(self._database, self._runner)

    def _begin_those_due(self, now: datetime) -> None:
        """Thousands may wait; only those that find a place are read as a whole.

        Places are counted anew before each start, for other copies of the room begin jobs too.
        """
        with self._database.reading() as session:
            due = store.jobs_due(session, self._plan.owner, now)
            slots = self._slots(session)
        for one in due:
            if not slots.is_free(one.profile):
                continue
            with self._database.reading() as session:
                job, slots = store.get_due(session, one.name, self._plan.owner, now), self._slots(session)
            if job is not None and slots.is_free(one.profile) and not self._handle_safely(job):
                return

    def _slots(self, session: Session) -> Slots:
        return Slots(self._plan.profiles, store.jobs_under_way(session))

    def _handle_safely(self, job: Job) -> bool:
        """False where the cluster does not answer: others would wait for it in vain, one after the other."""
        with log_context(job=job.name):
            try:
                self._handle(job)
            except Conflict:
                log.info("someone else moved the job first")
            except Refusal as refusal:
                self._meters.turn_failed()
                log.warning("the job has to wait: %s", refusal.message, extra={"reason": refusal.reason})
                return refusal.reason != CLUSTER_UNAVAILABLE
            except Exception:
                self._meters.turn_failed()
                log.exception("the job could not be handled in this turn")
            return True

    def _handle(self, job: Job) -> None:
        now = self._clock.now()
        job = self._leased(job, now)
        seen, observed = self._look(job)
        self._account(job, seen, now)
        act = DECIDE.get((job.state, seen))
        if act is None:
            if observed is not None:
                self._guard(job, observed, now)
            return
        if act is Act.STOP:
            self._stop(job, job.state.value, level=logging.INFO)
            return
        if act is Act.STOP_LATER:
            self._stop_the_deaf(job, now)
            return
        log.info("acting", extra={"act": act.value, "state": job.state.value, "seen": seen.value})
        if act is Act.START:
            self._acts.start(job, now)
        else:
            self._acts.end(job, act, seen, observed, now)
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
        trouble, memory = observed.trouble, self._memory(job)
        is_pending = observed.state is status.State.PENDING
        if trouble is not None and is_pending and memory.told != trouble.reason:
            self._acts.tell_trouble(job, trouble, now)
            memory.told = trouble.reason
        if trouble is not None and _is_hopeless(trouble, now):
            self._stop(job, trouble.reason, trouble)
            return
        if is_pending:
            return
        if job.attempt == 1 and job.started and observed.started and observed.started > job.started:
            self._acts.began(job, observed.started)
            return
        self._keep_log(job, now)
        if self._silent_seconds(job, observed, now) > self._plan.stall_seconds:
            self._stop(job, "silent")
        elif self._is_over_time(job, now):
            self._stop(job, "over its time")

    def _stop(self, job: Job, why: str, trouble: Trouble | None = None, *, level: int = logging.WARNING) -> None:
        """Asks in every turn, for the grace is the runner's; the first time says why, and keeps what a pod takes along.

        Args:
            trouble: what does not let it run, if it is that.
        """
        memory = self._memory(job)
        is_first = not memory.is_stopping
        if is_first:
            log.log(level, "stopping the attempt", extra={"why": why})
        if is_first and trouble is not None:
            self._acts.note(job, endings.of_trouble(trouble))
        self._runner.stop(workload_of(job))
        memory.is_stopping = True
        if is_first:
            self._acts.keep_log(job)

    def _stop_the_deaf(self, job: Job, now: datetime) -> None:
        """An attempt that is told to pause takes the time that it needs to save; one that does not hear is stopped."""
        memory = self._memory(job)
        memory.told_to_pause = memory.told_to_pause or now
        if (now - memory.told_to_pause).total_seconds() >= self._plan.stop_seconds:
            self._stop(job, "did not pause")

    def _silent_seconds(self, job: Job, observed: Observation, now: datetime) -> float:
        with self._database.reading() as session:
            attempt = store.get_attempt(session, job.attempt_name)
        signs = [self._awake_since, attempt.heartbeat if attempt else None, observed.started]
        return (now - max(sign for sign in signs if sign is not None)).total_seconds()

    def _is_over_time(self, job: Job, now: datetime) -> bool:
        with self._database.reading() as session:
            return over_time(session, job, now)

    def _keep_log(self, job: Job, now: datetime) -> None:
        every, memory = self._plan.log_seconds, self._memory(job)
        if memory.log_kept is None:
            memory.log_kept = now
        if every and (now - memory.log_kept).total_seconds() >= every:
            memory.log_kept = now
            self._acts.keep_log(job)

    def _account(self, job: Job, seen: Seen, now: datetime) -> None:
        """Counts the time since the last look, where the attempt held its machine then."""
        memory = self._memory(job)
        before, memory.counted_until = memory.counted_until, now if seen is Seen.RUNNING else None
        memory.is_pending = seen is Seen.PENDING
        if before is not None:
            seconds = min(max(0.0, (now - before).total_seconds()), self._plan.lease_seconds)
            self._meters.ran(job, seconds, self._plan.profiles.price_per_hour(job.profile) * job.recipe.nodes)

    def _memory(self, job: Job) -> _Memory:
        memory = self._memories.get(job.name)
        if memory is None or memory.attempt != job.attempt:
            memory = self._memories[job.name] = _Memory(job.attempt)
        return memory

    def _count(self) -> None:
        with self._database.reading() as session:
            counts = store.count_by_state(session)
            under_way = store.jobs_under_way(session)
        ours = {one.name for one in under_way if one.owner == self._plan.owner}
        self._memories = {name: memory for name, memory in self._memories.items() if name in ours}
        self._live.keep({one.name for one in under_way})
        pending = sum(memory.is_pending for memory in self._memories.values())
        slots = Slots(self._plan.profiles, under_way)
        self._meters.look(counts, slots, in_flight=len(ours), pending=pending)


def _is_hopeless(trouble: Trouble, now: datetime) -> bool:
    if trouble.patience_seconds is None or trouble.since is None:
        return False
    return (now - trouble.since).total_seconds() > trouble.patience_seconds
