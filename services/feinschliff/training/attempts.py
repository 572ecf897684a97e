"""What one attempt of a job may read and report; open to its token alone."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from feinschliff.formats.report import CheckpointReport, Failure, Metrics, Notice, Progress, Report
from feinschliff.formats.runfile import DataPart, Runfile
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import Unauthenticated, WrongState
from feinschliff.kit.watch import Wake
from feinschliff.training import store
from feinschliff.training.consumption import Energy, Tariff, used_by
from feinschliff.training.jobs import ATTEMPT, existing
from feinschliff.training.life import FINAL, State
from feinschliff.training.store import Checkpoint, Event, Job


@dataclass(frozen=True)
class Told:
    """What an attempt is answered after its reports."""

    last_sequence: int
    cancel: bool
    pause: bool
    new: Sequence[Report]
    job: Job
    new_joules: float = 0.0


class Attempts:
    """Every method is one use case and one short transaction; all may be called from any thread."""

    def __init__(self, database: Database, tariff: Tariff, *, clock: Clock, wake: Wake) -> None:
        self.tariff = tariff
        self._database = database
        self._clock = clock
        self._wake = wake

    def runfile(self, attempt: str, token: str) -> Runfile:
        with self._database.reading() as session:
            job = self._owner(session, attempt, token)
        return Runfile(
            job=job.name,
            job_uid=job.uid,
            energy_before=used_by(job).energy_joules or 0.0,
            attempt=job.attempt,
            recipe=job.recipe,
            base_model=job.inputs["base_model"],
            base_digest=job.inputs["base_digest"],
            initial_adapter_prefix=job.inputs["initial_adapter_prefix"],
            train=[DataPart.model_validate(part) for part in job.inputs["train"]],
            validation=[DataPart.model_validate(part) for part in job.inputs["validation"]],
            prefix=job.name,
        )

    def record(
        self,
        attempt: str,
        token: str,
        reports: Sequence[tuple[int, datetime, Report]],
        energy: Energy | None = None,
    ) -> Told:
        """Stores what an attempt reports; a key that is known is not stored again.

        Args:
            reports: number of each in its attempt, when it was measured, and the report itself.
            energy: what the attempt has used so far.
        """
        with self._database.transaction() as session:
            job = self._owner(session, attempt, token)
            now = self._clock.now()
            store.save_attempt(session, attempt, heartbeat=now)
            events = [_event_of(report, time) for _, time, report in reports if not isinstance(report, Progress)]
            job, new = store.append_events(session, job, events)
            new_keys = {event.key for event in new}
            kept = [(time, one) for _, time, one in reports if not isinstance(one, Progress) and one.key in new_keys]
            for time, report in kept:
                if isinstance(report, CheckpointReport):
                    store.put_checkpoint(session, _checkpoint_of(job, report, time))
            before = used_by(job).energy_joules or 0.0
            job = _with_latest(session, job, [report for _, _, report in reports], now)
            if energy is not None:
                job = self.tariff.note(session, job, now, energy)
            if any(isinstance(report, CheckpointReport) for _, report in kept):
                steps = store.checkpoint_steps(session, job.name)
                gone = job.recipe.checkpointing.superfluous(steps, job.best_step)
                store.drop_checkpoints(session, job.name, gone)  # the trainer removes their files by the same rule
        self._wake.notify()
        last = max((number for number, _, _ in reports), default=0)
        return Told(
            last,
            cancel=job.state is State.CANCELLING,
            pause=job.state is State.PAUSING,
            new=[report for _, report in kept],
            job=job,
            new_joules=(used_by(job).energy_joules or 0.0) - before,
        )

    def finish(self, attempt: str, token: str, failure: Failure | None) -> None:
        """Notes why an attempt ends; whether it succeeded is decided by what it committed."""
        with self._database.transaction() as session:
            self._owner(session, attempt, token)
            store.save_attempt(session, attempt, failure=failure, heartbeat=self._clock.now())
        self._wake.notify()

    def _owner(self, session: Session, attempt: str, token: str) -> Job:
        """The job of the attempt that this token opens, if it is still the job's current one."""
        names.parse(ATTEMPT, attempt, field="attempt")
        known = store.get_attempt(session, attempt)
        if known is None or not hmac.compare_digest(known.token_hash, token_hash(token)):
            raise Unauthenticated("ATTEMPT_TOKEN_WRONG", "This token does not open this attempt.", attempt=attempt)
        job = existing(session, known.job)
        if job.attempt != known.number or known.ended is not None or job.state in FINAL:
            raise WrongState(
                "ATTEMPT_SUPERSEDED",
                f"Attempt {known.number} of {job.name} is over; stop.",
                attempt=attempt,
                current=job.attempt,
            )
        return job


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _event_of(report: Metrics | CheckpointReport | Notice, time: datetime) -> Event:
    match report:
        case Metrics():
            what = "validation loss" if report.phase == "validation" else "training loss"
            text = f"Step {report.step}/{report.steps_total}: {what}={report.values.get('loss', float('nan')):.4f}"
            return Event(report.key, time, text, report.model_dump(exclude={"key"}))
        case CheckpointReport():
            text = f"Checkpoint created at step {report.step}."
            detail = report.model_dump(exclude={"key", "prefix"}) | {"uri": report.prefix}
            return Event(report.key, time, text, detail)
        case Notice():
            return Event(report.key, time, report.message, {"kind": "notice"}, report.level)


def _checkpoint_of(job: Job, report: CheckpointReport, time: datetime) -> Checkpoint:
    return Checkpoint(
        job=job.name,
        step=report.step,
        uri=report.prefix,
        digest=report.digest,
        metrics=report.values,
        best=report.best,
        created=time,
    )


def _with_latest(session: Session, job: Job, reports: Sequence[Report], now: datetime) -> Job:
    """The job's own view of the newest reports: progress, latest numbers, best checkpoint."""
    changes: dict[str, Any] = {}
    metrics = dict(job.metrics)
    for report in reports:
        if isinstance(report, Metrics):
            metrics |= _latest(report, metrics)
        elif isinstance(report, CheckpointReport):
            changes["safe_step"] = max(report.step, changes.get("safe_step", job.safe_step))
            if report.best:
                changes["best_step"] = report.step
        elif isinstance(report, Progress):
            eta = (
                None
                if report.eta_seconds is None
                else datetime.fromtimestamp(now.timestamp() + report.eta_seconds, UTC)
            )
            changes["progress"] = {
                "stage": report.stage,
                "done": report.step,
                "total": report.steps_total,
                "unit": "steps",
                "eta": eta.isoformat() if eta else None,
            }
    if metrics != job.metrics:
        changes["metrics"] = metrics
    return store.save_job(session, job, updated=now, **changes) if changes else job


def _latest(report: Metrics, known: Mapping[str, float]) -> dict[str, float]:
    if report.step < known.get("step", 0):
        return {}  # a step that is done again after a crash
    latest: dict[str, float] = {"step": report.step, "steps_total": report.steps_total, "epoch": report.epoch}
    latest["trained_tokens"] = report.trained_tokens
    if report.phase == "train":
        return latest | dict(report.values)
    loss = report.values.get("loss")
    others = {f"validation_{key}": value for key, value in report.values.items()}
    best = {} if loss is None else {"best_validation_loss": min(loss, known.get("best_validation_loss", loss))}
    return latest | others | best
