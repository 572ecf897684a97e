"""Looks at every job that is not over, decides by the table, acts, and looks again."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from feinschliff.artifacts.commit import read_manifest
from feinschliff.artifacts.store import Store
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.report import Failure
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import log_context
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import Conflict, Refusal
from feinschliff.kit.failpoints import fail
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.watch import Wake
from feinschliff.training import store
from feinschliff.training.attempts import token_hash
from feinschliff.training.jobs import move
from feinschliff.training.life import DECIDE, Act, Seen, State, backoff_seconds, seen_after_exit
from feinschliff.training.store import Attempt, Event, Job
from feinschliff.v1 import common_pb2
from feinschliff.workloads import status
from feinschliff.workloads.runner import Runner
from feinschliff.workloads.spec import WorkloadSpec, workload_name

log = logging.getLogger(__name__)
LOG_TAIL_BYTES = 2000
LOG_KEPT_BYTES = 16 * 1024 * 1024


class Registrar(Protocol):
    def register(self, job: Job, manifest: Manifest, adapter: common_pb2.ArtifactRef) -> str: ...


@dataclass(frozen=True)
class Plan:
    """How attempts run here."""

    owner: str
    slots: int
    lease_seconds: float
    stall_seconds: float
    stop_seconds: float
    command: tuple[str, ...]
    env: Mapping[str, str]
    secret_env: Mapping[str, str]


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
        *,
        clock: Clock,
        wake: Wake,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._runner = runner
        self._registrar = registrar
        self._plan = plan
        self._metrics = metrics
        self._clock = clock
        self._wake = wake
        self._new_token = new_token
        self._awake_since = clock.now()

    def turn(self) -> None:
        """One look at all jobs; one bad job never stops the others."""
        with self._metrics.histogram("feinschliff_training_reconcile_seconds").time():
            with self._database.reading() as session:
                jobs = store.jobs_to_look_at(session, self._plan.owner, self._clock.now())
            busy = sum(job.state in (State.RUNNING, State.CANCELLING) for job in jobs)
            for job in jobs:
                with log_context(job=job.name):
                    busy += self._handle_safely(job, busy)
            self._count(busy)

    def _handle_safely(self, job: Job, busy: int) -> int:
        try:
            return self._handle(job, busy)
        except Conflict:
            log.info("someone else moved the job first")
        except Refusal as refusal:
            self._metrics.counter("feinschliff_training_reconcile_errors_total").inc()
            log.warning("the job has to wait: %s", refusal.message, extra={"reason": refusal.reason})
        except Exception:
            self._metrics.counter("feinschliff_training_reconcile_errors_total").inc()
            log.exception("the job could not be handled in this turn")
        return 0

    def _handle(self, job: Job, busy: int) -> int:
        """Acts on one job; says by how many the running attempts changed."""
        now = self._clock.now()
        if job.state is State.QUEUED and (job.not_before > now or busy >= self._plan.slots):
            return 0
        job = self._leased(job, now)
        seen, observed = self._look(job)
        act = DECIDE.get((job.state, seen))
        if seen is Seen.RUNNING and act is None:
            self._guard(job, now)
            return 0
        if act is None:
            return 0
        log.info("acting", extra={"act": act.value, "state": job.state.value, "seen": seen.value})
        match act:
            case Act.START:
                self._start(job, now)
                return 1
            case Act.STOP:
                self._runner.stop(workload_of(job))
                return 0
        self._end_attempt(job, act, seen, observed, now)
        return -1

    def _leased(self, job: Job, now: datetime) -> Job:
        half = timedelta(seconds=self._plan.lease_seconds / 2)
        if job.lease_owner == self._plan.owner and job.lease_until > now + half:
            return job
        with self._database.transaction() as session:
            return store.take_lease(session, job, self._plan.owner, now, self._plan.lease_seconds)

    def _look(self, job: Job) -> tuple[Seen, status.Observation | None]:
        if job.state is State.QUEUED:
            return Seen.NOTHING, None
        observed = self._runner.observe(workload_of(job))
        if observed.state is status.State.RUNNING:
            return Seen.RUNNING, observed
        committed = read_manifest(self._artifacts, f"{job.name}/result") is not None
        if observed.state is status.State.NOTHING:
            return (Seen.FINISHED if committed else Seen.NOTHING), observed
        return seen_after_exit(observed.exit_code, result_committed=committed), observed

    def _start(self, job: Job, now: datetime) -> None:
        token = self._new_token()
        number = job.attempt + 1
        name = f"{job.name}/attempts/{number}"
        with self._database.transaction() as session:
            first = _newest_step(self._artifacts, job)
            attempt = Attempt(name, job.name, number, token_hash(token), first, heartbeat=now, started=now)
            store.insert_attempt(session, attempt)
            job = move(session, job, State.RUNNING, now, attempt=number, safe_step=first, started=job.started or now)
            begun = {"kind": "attempt", "attempt": name, "started": True, "from_step": first}
            text = (
                f"Attempt {number} started." if not first else f"Attempt {number} started, going on after step {first}."
            )
            store.append_events(session, job, [Event(f"attempt/{number}/started", now, text, begun)])
        if number == 1:
            waited = (now - job.created).total_seconds()
            self._metrics.histogram("feinschliff_training_queue_wait_seconds").observe(waited)
        self._wake.notify()
        fail("attempt.before_start")
        self._runner.start(
            WorkloadSpec(
                name=workload_of(job),
                command=self._plan.command,
                env={**self._plan.env, "FEINSCHLIFF_ATTEMPT": name},
                secret_env={**self._plan.secret_env, "FEINSCHLIFF_ATTEMPT_TOKEN": token},
                labels={"room": "training", "job": job.name},
                grace_seconds=self._plan.stop_seconds,
            )
        )

    def _guard(self, job: Job, now: datetime) -> None:
        """Stops a running attempt that is silent for too long or over its time."""
        with self._database.reading() as session:
            attempt = store.get_attempt(session, job.attempt_name)
        heard = max(attempt.heartbeat if attempt else self._awake_since, self._awake_since)
        silent = (now - heard).total_seconds() > self._plan.stall_seconds
        if silent or _over_time(job, now):
            log.warning("stopping the attempt", extra={"silent": silent})
            self._runner.stop(workload_of(job))

    def _end_attempt(self, job: Job, act: Act, seen: Seen, observed: status.Observation | None, now: datetime) -> None:
        self._keep_log(job)
        with self._database.reading() as session:
            attempt = store.get_attempt(session, job.attempt_name)
        model_version = self._register(job) if act is Act.MARK_SUCCEEDED else ""
        with self._database.transaction() as session:
            exit_code = observed.exit_code if observed else None
            store.save_attempt(session, job.attempt_name, outcome=seen.value, exit_code=exit_code, ended=now)
            ended = {
                "kind": "attempt",
                "attempt": job.attempt_name,
                "started": False,
                "from_step": attempt.first_step if attempt else 0,
                "exit_code": exit_code,
                "signal": observed.signal if observed else None,
            }
            text = f"Attempt {job.attempt} ended: {seen.value}."
            job, _ = store.append_events(session, job, [Event(f"attempt/{job.attempt}/ended", now, text, ended)])
            match act:
                case Act.MARK_SUCCEEDED:
                    note = f" New model created: {model_version}."
                    job = move(session, job, State.SUCCEEDED, now, note=note, model_version=model_version, failure=None)
                case Act.MARK_CANCELLED:
                    job = move(session, job, State.CANCELLED, now)
                case _:
                    job = self._after_failure(session, job, act, attempt, now)
        with suppress(Refusal):
            self._runner.forget(workload_of(job, job.attempt))
        self._metrics.counter("feinschliff_training_attempts_total").labels(_OUTCOMES[seen]).inc()
        if job.finished is not None:
            self._metrics.counter("feinschliff_training_jobs_finished_total").labels(job.state.value).inc()
            seconds = (job.finished - job.created).total_seconds()
            self._metrics.histogram("feinschliff_training_job_seconds").labels(job.state.value).observe(seconds)
        self._wake.notify()

    def _after_failure(self, session: Session, job: Job, act: Act, attempt: Attempt | None, now: datetime) -> Job:
        """Queues the job again, or ends it where another attempt cannot help."""
        failure = attempt.failure if attempt else None
        if _over_time(job, now):
            return _failed(session, job, _out_of_time(job), now)
        if act is Act.FAIL or (failure is not None and not failure.retryable):
            return _failed(session, job, failure or self._unexplained(job), now)
        if act is Act.REQUEUE:
            return move(session, job, State.QUEUED, now, note=" It goes on from its last checkpoint.", not_before=now)
        reached = _newest_step(self._artifacts, job)
        barren = 1 if attempt and reached > attempt.first_step else job.barren_attempts + 1
        if barren >= job.recipe.limits.attempts_max:
            return _failed(session, job, _exhausted(job, failure or self._unexplained(job)), now)
        wait = timedelta(seconds=backoff_seconds(barren))
        note = f" It begins again after step {reached} in {wait.total_seconds():.0f} s."
        return move(
            session, job, State.QUEUED, now, note=note, level="warning", barren_attempts=barren, not_before=now + wait
        )

    def _register(self, job: Job) -> str:
        manifest = read_manifest(self._artifacts, f"{job.name}/result")
        if manifest is None:
            raise AssertionError(f"{job.name}: finished without a result")
        fail("registration.before_call")
        adapter = common_pb2.ArtifactRef(
            uri=f"s3://{self._artifacts.bucket}/{job.name}/result",
            sha256=manifest.digest.removeprefix("sha256:"),
            size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
            media_type="application/vnd.feinschliff.adapter",
        )
        name = self._registrar.register(job, manifest, adapter)
        fail("registration.after_call")
        return name

    def _keep_log(self, job: Job) -> None:
        text = self._runner.logs(workload_of(job), 0, LOG_KEPT_BYTES)
        if text:
            key = f"{job.name}/logs/attempt-{job.attempt}.log"
            self._artifacts.put_bytes(key, text, media_type="text/plain")

    def _unexplained(self, job: Job) -> Failure:
        tail = self._runner.logs(workload_of(job), 0, LOG_KEPT_BYTES)[-LOG_TAIL_BYTES:].decode(errors="replace")
        last = tail.strip().rsplit("\n", 1)[-1][:500]
        return Failure(
            reason="ATTEMPT_CRASHED",
            message=f"The attempt ended without saying why. Its last line: {last}",
            advice=[f"Read {job.name}/logs/attempt-{job.attempt}.log in the bucket."],
            retryable=True,
        )

    def _count(self, busy: int) -> None:
        with self._database.reading() as session:
            counts = store.count_by_state(session)
        for state in State:
            self._metrics.gauge("feinschliff_training_jobs").labels(state.value).set(counts.get(state, 0))
        self._metrics.gauge("feinschliff_training_queue_depth_jobs").set(counts.get(State.QUEUED, 0))
        self._metrics.gauge("feinschliff_training_attempts_in_flight").set(busy)


_OUTCOMES = {
    Seen.FINISHED: "succeeded",
    Seen.RESUMABLE: "resumable",
    Seen.DATA_BAD: "failed",
    Seen.CRASHED: "failed",
    Seen.NOTHING: "vanished",
}


def workload_of(job: Job, attempt: int | None = None) -> str:
    """The name of the attempt's workload; the same from every process."""
    return workload_name("training", job.uid, attempt or job.attempt)


def _newest_step(artifacts: Store, job: Job) -> int:
    """The step of the newest committed checkpoint; 0 where there is none."""
    steps = [0]
    for key in artifacts.list(f"{job.name}/checkpoints"):
        step, _, name = key.removeprefix(f"{job.name}/checkpoints/").partition("/")
        if name == "manifest.json" and step.isdigit():
            steps.append(int(step))
    return max(steps)


def _failed(session: Session, job: Job, failure: Failure, now: datetime) -> Job:
    return move(session, job, State.FAILED, now, note=f" {failure.message}", level="error", failure=failure)


def _over_time(job: Job, now: datetime) -> bool:
    limit = job.recipe.limits.wall_seconds
    return bool(limit and job.started and (now - job.started).total_seconds() > limit)


def _out_of_time(job: Job) -> Failure:
    return Failure(
        reason="WALL_TIME_EXCEEDED",
        message=f"The job ran longer than its limit of {job.recipe.limits.wall_seconds:.0f} s.",
        advice=["Raise limits.wall_seconds, or train fewer epochs.", "Its checkpoints are kept."],
    )


def _exhausted(job: Job, last: Failure) -> Failure:
    return Failure(
        reason="ATTEMPTS_EXHAUSTED",
        message=f"{job.attempt} attempts, the last ones without progress. The last one: {last.message}",
        advice=[*last.advice, "Mend the cause, then create the job again."],
    )
