"""What is done about a job once it is decided: an attempt starts, waits, is given up, ends."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from feinschliff.artifacts.store import Store
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.report import Failure
from feinschliff.kit import tracing
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import Invalid, Refusal
from feinschliff.kit.failpoints import fail
from feinschliff.lm.allocator import ALLOCATOR
from feinschliff.training import endings, store
from feinschliff.training.attempts import token_hash
from feinschliff.training.consumption import Tariff
from feinschliff.training.jobs import move
from feinschliff.training.life import Act, Seen, State, backoff_seconds
from feinschliff.training.meters import Meters
from feinschliff.training.outcomes import Outcome, outcomes
from feinschliff.training.store import Attempt, Event, Job
from feinschliff.training.trackers import secrets_of
from feinschliff.v1 import common_pb2
from feinschliff.workloads.profiles import Profile, Profiles
from feinschliff.workloads.runner import Runner
from feinschliff.workloads.spec import WorkloadSpec, workload_name
from feinschliff.workloads.status import Observation, Trouble

LOG_TAIL_BYTES = 2000
LOG_KEPT_BYTES = 16 * 1024 * 1024
# Beyond the job's own limit: the cluster ends what we could not. It also counts the wait for a node, so it is generous.
DEADLINE_SPARE_SECONDS = 6 * 3600.0
_WANTED_ENDS = frozenset({Act.MARK_SUCCEEDED, Act.MARK_CANCELLED, Act.MARK_PAUSED})
BLAMELESS_WAIT_SECONDS = 5.0  # before work goes on elsewhere; longer where machines go before a step is made


class Registrar(Protocol):
    def register(self, job: Job, manifest: Manifest, adapter: common_pb2.ArtifactRef, task: str = "") -> str:
        """The name of the version that a result became. Args: task: whose it is, where each has its own."""
        ...


@dataclass(frozen=True)
class Plan:
    """How attempts run here.

    Args:
        log_seconds: between two copies of a running attempt's log to the store; 0 where its log outlives its machine.
    """

    owner: str
    lease_seconds: float
    stall_seconds: float
    stop_seconds: float
    command: tuple[str, ...]
    env: Mapping[str, str]
    secret_env: Mapping[str, str] = field(repr=False)
    profiles: Profiles
    log_seconds: float = 0.0
    carbon_grams_per_kilowatt_hour: float = 0.0

    @property
    def tariff(self) -> Tariff:
        return Tariff(self.profiles, self.carbon_grams_per_kilowatt_hour)

    def environment(self, profile: Profile) -> dict[str, str]:
        """Of every attempt that runs with this profile, whosever it is."""
        return {**ALLOCATOR, **profile.env, **self.env}


class Remains(NamedTuple):
    """What an attempt leaves behind that tells how it went on, and why it ended."""

    attempt: Attempt | None
    trouble: Trouble | None
    log: bytes
    newest_step: int


class Acts:
    """Each act is one short transaction and may be done twice; a job that somebody else moved is a Conflict.

    The store and the runner are asked before a transaction or after it: who waits for them must not hold up reports.
    """

    def __init__(
        self,
        database: Database,
        artifacts: Store,
        runner: Runner,
        registrar: Registrar,
        plan: Plan,
        meters: Meters,
        *,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._runner = runner
        self._registrar = registrar
        self._plan = plan
        self._meters = meters
        self._new_token = new_token
        self._refused: Counter[str] = Counter()

    def start(self, job: Job, now: datetime) -> None:
        """The job's next attempt: first the row that says so, then the workload."""
        try:
            profile = self._plan.profiles.get(job.profile)
        except Invalid as gone:
            failure = Failure(reason=gone.reason, message=gone.message, advice=["Create the job again with another."])
            with self._database.transaction() as session:
                job = _failed(session, job, failure, now)
            self._meters.finished(job)
            return
        token, first_step = self._new_token(), newest_step(self._artifacts, job)
        with self._database.transaction() as session:
            job = _begun(session, job, token, first_step, now)
        if job.attempt == 1:
            self._meters.waited((now - job.created).total_seconds())
        fail("attempt.before_start")
        try:
            self._runner.start(self._spec(job, profile, token, now))
        except Refusal as refusal:
            self._refused[job.name] += 1
            self.note(job, endings.of_refusal(refusal))
        else:
            self._refused.pop(job.name, None)

    def began(self, job: Job, started: datetime) -> None:
        """The first attempt has its machine; what it waited for that is not the job's own time."""
        with self._database.transaction() as session:
            store.save_attempt(session, job.attempt_name, started=started)
            store.save_job(session, job, started=started)

    def tell_trouble(self, job: Job, trouble: Trouble, now: datetime) -> None:
        """Once for each attempt and reason: its owner reads why nothing happens."""
        key = f"attempt/{job.attempt}/waits/{trouble.reason}"
        text = f"Attempt {job.attempt} waits: {trouble.message}"
        with self._database.transaction() as session:
            event = Event(key, now, text, {"kind": "notice"}, level="warning")
            _, new = store.append_events(session, job, [event])
        if new:
            self._meters.in_trouble(trouble.reason)

    def note(self, job: Job, failure: Failure) -> None:
        """Why the attempt is about to end; what it says itself goes before it."""
        with self._database.transaction() as session:
            attempt = store.get_attempt(session, job.attempt_name)
            if attempt is not None and attempt.failure is None:
                store.save_attempt(session, job.attempt_name, failure=failure)

    def keep_log(self, job: Job) -> bytes:
        """Copies what the attempt has said so far to the store."""
        said = self._runner.logs(workload_of(job), 0, LOG_KEPT_BYTES)
        if said:
            self._artifacts.put_bytes(endings.log_key(job), said, media_type="text/plain")
        return said

    def end(self, job: Job, act: Act, seen: Seen, observed: Observation | None, now: datetime) -> Job:
        """The attempt is over: its record, what becomes of the job, and no trace of the workload."""
        said, trouble = self.keep_log(job), observed.trouble if observed else None
        with self._database.reading() as session:
            attempt = store.get_attempt(session, job.attempt_name)
        reached = newest_step(self._artifacts, job) if act in (Act.RETRY_OR_FAIL, Act.MARK_PAUSED) else 0
        versions = self._register(job) if act is Act.MARK_SUCCEEDED else {}
        with self._database.transaction() as session:
            job = self._plan.tariff.note(session, _attempt_over(session, job, attempt, seen, observed, now), now)
            match act:
                case Act.MARK_SUCCEEDED:
                    only, of_tasks = versions.get("", ""), {task: one for task, one in versions.items() if task}
                    note = f" New model{'s' if of_tasks else ''} created: {', '.join(versions.values())}."
                    job = move(
                        session, job, State.SUCCEEDED, now,
                        note=note, model_version=only, task_versions=of_tasks, failure=None,
                    )  # fmt: skip
                case Act.MARK_CANCELLED:
                    job = move(session, job, State.CANCELLED, now)
                case Act.MARK_PAUSED:
                    is_sealed = seen is Seen.RESUMABLE
                    note = f" It goes on after step {reached} once it is resumed."
                    job = move(session, job, State.PAUSED, now, note=note, level="info" if is_sealed else "warning")
                case _:
                    remains = Remains(attempt, trouble, said[-LOG_TAIL_BYTES:], reached)
                    job = self._after_failure(session, job, act, remains, now)
        if trouble is not None and act not in _WANTED_ENDS:
            self._meters.in_trouble(trouble.reason)
        with suppress(Refusal):
            self._runner.forget(workload_of(job))
        self._meters.ended(seen)
        if job.finished is not None:
            self._meters.finished(job)
            self._refused.pop(job.name, None)
        return job

    def _spec(self, job: Job, profile: Profile, token: str, now: datetime) -> WorkloadSpec:
        limit = job.recipe.limits.wall_seconds
        with self._database.reading() as session:
            elapsed = store.worked_seconds(session, job.name, now) if limit else 0.0
        spare = self._plan.stop_seconds + DEADLINE_SPARE_SECONDS
        return WorkloadSpec(
            name=workload_of(job),
            command=self._plan.command,
            env={
                **self._plan.environment(profile),
                "FEINSCHLIFF_ATTEMPT": job.attempt_name,
                **tracing.environment(str(job.inputs.get("traceparent", ""))),
            },
            secret_env={**self._plan.secret_env, "FEINSCHLIFF_ATTEMPT_TOKEN": token},
            labels={"room": "training", "job": job.name},
            grace_seconds=self._plan.stop_seconds,
            deadline_seconds=max(0.0, limit - elapsed) + spare if limit else None,
            profile=profile,
            nodes=job.recipe.nodes,
            may_be_warm=job.recipe.nodes * job.recipe.processes_per_node == 1,
            secrets=secrets_of(job.recipe, profile),
        )

    def _after_failure(self, session: Session, job: Job, act: Act, remains: Remains, now: datetime) -> Job:
        """Queues the job again, or ends it where another attempt cannot help."""
        attempt, trouble, said, reached = remains
        failure = attempt.failure if attempt else None
        if failure is None and trouble is not None:
            failure = endings.of_trouble(trouble)
        if over_time(session, job, now):
            return _failed(session, job, endings.out_of_time(job), now)
        if act is Act.FAIL or (failure is not None and not failure.retryable):
            return _failed(session, job, failure or endings.unexplained(job, said), now)
        if act is Act.REQUEUE:
            return move(session, job, State.QUEUED, now, note=" It goes on from its last checkpoint.", not_before=now)
        if trouble is not None and trouble.blameless:
            progressed = attempt is not None and reached > attempt.first_step
            pause = BLAMELESS_WAIT_SECONDS if progressed else max(BLAMELESS_WAIT_SECONDS, backoff_seconds(job.attempt))
            wait, note = timedelta(seconds=pause), f" {trouble.message} It goes on elsewhere."
            return move(session, job, State.QUEUED, now, note=note, level="warning", not_before=now + wait)
        if refused := self._refused[job.name]:
            wait, note = timedelta(seconds=backoff_seconds(refused)), f" {failure.message if failure else ''}"
            return move(session, job, State.QUEUED, now, note=note, level="warning", not_before=now + wait)
        barren = 1 if attempt and reached > attempt.first_step else job.barren_attempts + 1
        if barren >= job.recipe.limits.attempts_max:
            return _failed(session, job, endings.exhausted(job, failure or endings.unexplained(job, said)), now)
        wait = timedelta(seconds=backoff_seconds(barren))
        note = f" It begins again after step {reached} in {wait.total_seconds():.0f} s."
        return move(
            session, job, State.QUEUED, now, note=note, level="warning", barren_attempts=barren, not_before=now + wait
        )

    def _register(self, job: Job) -> dict[str, str]:
        """The model version of each task that has an adapter of its own; the only one by the empty name."""
        found = list(outcomes(self._artifacts, job))
        fail("registration.before_call")
        versions = {
            one.task: self._registrar.register(job, one.manifest, self._adapter(one), one.task) for one in found
        }
        fail("registration.after_call")
        return versions

    def _adapter(self, outcome: Outcome) -> common_pb2.ArtifactRef:
        return common_pb2.ArtifactRef(
            uri=f"s3://{self._artifacts.bucket}/{outcome.prefix}",
            sha256=outcome.manifest.digest.removeprefix("sha256:"),
            size_bytes=sum(entry.size_bytes for entry in outcome.manifest.files.values()),
            media_type="application/vnd.feinschliff.adapter",
        )


def workload_of(job: Job) -> str:
    """The name of the current attempt's workload; the same from every process."""
    return workload_name("training", job.uid, job.attempt)


def over_time(session: Session, job: Job, now: datetime) -> bool:
    """Whether its attempts took longer than the job may; what it waited or was paused in between does not count."""
    limit = job.recipe.limits.wall_seconds
    return bool(limit) and store.worked_seconds(session, job.name, now) > limit


def newest_step(artifacts: Store, job: Job) -> int:
    """The step of the newest committed checkpoint; 0 where there is none."""
    steps = [0]
    for key in artifacts.list(f"{job.name}/checkpoints"):
        step, _, name = key.removeprefix(f"{job.name}/checkpoints/").partition("/")
        if name == "manifest.json" and step.isdigit():
            steps.append(int(step))
    return max(steps)


def _begun(session: Session, job: Job, token: str, first_step: int, now: datetime) -> Job:
    number = job.attempt + 1
    name = f"{job.name}/attempts/{number}"
    attempt = Attempt(name, job.name, number, token_hash(token), first_step, heartbeat=now, started=now)
    store.insert_attempt(session, attempt)
    job = move(session, job, State.RUNNING, now, attempt=number, safe_step=first_step, started=job.started or now)
    begun = {"kind": "attempt", "attempt": name, "started": True, "from_step": first_step}
    text = f"Attempt {number} started{f', going on after step {first_step}' if first_step else ''}."
    return store.append_events(session, job, [Event(f"attempt/{number}/started", now, text, begun)])[0]


def _attempt_over(
    session: Session, job: Job, attempt: Attempt | None, seen: Seen, observed: Observation | None, now: datetime
) -> Job:
    exit_code = observed.exit_code if observed else None
    store.save_attempt(session, job.attempt_name, outcome=seen.value, exit_code=exit_code, ended=now)
    ended: dict[str, Any] = {
        "kind": "attempt",
        "attempt": job.attempt_name,
        "started": False,
        "from_step": attempt.first_step if attempt else 0,
        "exit_code": exit_code,
        "signal": observed.signal if observed else None,
    }
    text = f"Attempt {job.attempt} ended: {seen.value}."
    return store.append_events(session, job, [Event(f"attempt/{job.attempt}/ended", now, text, ended)])[0]


def _failed(session: Session, job: Job, failure: Failure, now: datetime) -> Job:
    return move(session, job, State.FAILED, now, note=f" {failure.message}", level="error", failure=failure)
