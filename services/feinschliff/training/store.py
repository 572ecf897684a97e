"""The tables of training: jobs, their attempts, what happened to them, and their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Integer,
    String,
    Table,
    UniqueConstraint,
    and_,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy.engine import RowMapping

from feinschliff.formats.recipe import Recipe
from feinschliff.formats.report import Failure
from feinschliff.kit.db import Json, Session, UtcDateTime, insert_ignore, metadata_for, select_one, update_versioned
from feinschliff.kit.idempotency import Ledger
from feinschliff.kit.paging import Page
from feinschliff.training.life import UNDER_WAY, State
from feinschliff.workloads.profiles import LOCAL

METADATA = metadata_for("training")
LEDGER = Ledger(METADATA, "training")

JOBS = Table(
    "training_jobs",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("parent", String(100), nullable=False, index=True),
    Column("uid", String(40), nullable=False, unique=True),
    Column("state", String(20), nullable=False, index=True),
    Column("profile", String(40), nullable=False),
    Column("recipe", Json, nullable=False),
    Column("inputs", Json, nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("barren_attempts", Integer, nullable=False),
    Column("safe_step", Integer, nullable=False),
    Column("not_before", UtcDateTime, nullable=False),
    Column("progress", Json, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("consumption", Json, nullable=False),
    Column("failure", Json),
    Column("model_version", String(200), nullable=False),
    Column("task_versions", Json, nullable=False),
    Column("best_step", Integer, nullable=False),
    Column("events", Integer, nullable=False),
    Column("lease_owner", String(100), nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("created", UtcDateTime, nullable=False, index=True),
    Column("started", UtcDateTime),
    Column("finished", UtcDateTime),
    Column("updated", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)

ATTEMPTS = Table(
    "training_attempts",
    METADATA,
    Column("name", String(220), primary_key=True),
    Column("job", String(200), ForeignKey(JOBS.c.name, ondelete="CASCADE"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("token_hash", String(64), nullable=False),
    Column("first_step", Integer, nullable=False),
    Column("heartbeat", UtcDateTime, nullable=False),
    Column("failure", Json),
    Column("outcome", String(20), nullable=False),
    Column("exit_code", Integer),
    Column("started", UtcDateTime, nullable=False),
    Column("ended", UtcDateTime),
)

EVENTS = Table(
    "training_events",
    METADATA,
    Column("job", String(200), ForeignKey(JOBS.c.name, ondelete="CASCADE"), primary_key=True),
    Column("cursor", Integer, primary_key=True),
    Column("key", String(200), nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("level", String(10), nullable=False),
    Column("message", String, nullable=False),
    Column("detail", Json, nullable=False),
    UniqueConstraint("job", "key"),
)

CHECKPOINTS = Table(
    "training_checkpoints",
    METADATA,
    Column("job", String(200), ForeignKey(JOBS.c.name, ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("uri", String(600), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("metrics", Json, nullable=False),
    Column("best", Boolean, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

Values = Mapping[str, float]


@dataclass(frozen=True)
class Job:
    """One row of `training_jobs`; `version` is the row's, for writers that meet."""

    name: str
    parent: str
    uid: str
    recipe: Recipe
    inputs: Mapping[str, Any]
    created: datetime
    not_before: datetime
    lease_until: datetime
    updated: datetime
    state: State = State.QUEUED
    profile: str = LOCAL
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 0
    barren_attempts: int = 0
    safe_step: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)
    metrics: Values = field(default_factory=dict)
    consumption: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    model_version: str = ""
    task_versions: Mapping[str, str] = field(default_factory=dict)  # by task, where each has an adapter of its own
    best_step: int = 0
    events: int = 0
    lease_owner: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    version: int = 1

    @property
    def attempt_name(self) -> str:
        return f"{self.name}/attempts/{self.attempt}"


@dataclass(frozen=True)
class Attempt:
    name: str
    job: str
    number: int
    token_hash: str
    first_step: int
    heartbeat: datetime
    started: datetime
    failure: Failure | None = None
    outcome: str = ""
    exit_code: int | None = None
    ended: datetime | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; `key` is unique in the job, `cursor` rises without gaps."""

    key: str
    time: datetime
    message: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    level: str = "info"
    cursor: int = 0


@dataclass(frozen=True)
class Checkpoint:
    job: str
    step: int
    uri: str
    digest: str
    created: datetime
    metrics: Values = field(default_factory=dict)
    best: bool = False


class Due(NamedTuple):
    """A queued job, and where it wants to run."""

    name: str
    profile: str


class UnderWay(NamedTuple):
    """A job that holds a slot, and whose it is."""

    name: str
    profile: str
    owner: str


def insert_job(session: Session, job: Job) -> None:
    session.execute(JOBS.insert().values(**_columns(job)))


def get_job(session: Session, name: str) -> Job | None:
    row = select_one(session, JOBS, name=name)
    return None if row is None else _job(row)


def save_job(session: Session, before: Job, **changes: object) -> Job:
    """Writes the changed fields to the row as it was read.

    Raises:
        Conflict: ROW_CHANGED.
    """
    after = replace(before, **changes, version=before.version + 1)  # type: ignore[arg-type]
    columns = _columns(after)
    update_versioned(session, JOBS, {"name": before.name}, before.version, {key: columns[key] for key in changes})
    return after


def list_jobs(session: Session, parent: str, page: Page, where: Sequence[Any], *, descending: bool) -> list[Job]:
    """By creation, one more than the page, so that the caller knows whether there is another."""
    conditions = [JOBS.c.parent == parent, *where]
    key = tuple_(JOBS.c.created, JOBS.c.name)
    if page.after is not None:
        after = tuple_(literal(datetime.fromisoformat(str(page.after[0])), UtcDateTime), literal(str(page.after[1])))
        conditions.append(key < after if descending else key > after)
    order = [column.desc() if descending else column.asc() for column in (JOBS.c.created, JOBS.c.name)]
    query = select(JOBS).where(*conditions).order_by(*order).limit(page.size + 1)
    return [_job(row) for row in session.execute(query).mappings()]


def delete_job(session: Session, name: str) -> None:
    for table in (EVENTS, CHECKPOINTS, ATTEMPTS):
        session.execute(table.delete().where(table.c.job == name))
    session.execute(JOBS.delete().where(JOBS.c.name == name))


def jobs_to_look_at(session: Session, owner: str, now: datetime) -> list[Job]:
    """Jobs with an attempt under way that no other reconciler holds, oldest first."""
    query = (
        select(JOBS)
        .where(JOBS.c.state.in_([state.value for state in UNDER_WAY]))
        .where(_is_free_for(owner, now))
        .order_by(JOBS.c.created, JOBS.c.name)
    )
    return [_job(row) for row in session.execute(query).mappings()]


def jobs_due(session: Session, owner: str, now: datetime) -> list[Due]:
    """Queued jobs that may begin now, oldest first; no more of each than it takes to find it a place."""
    query = select(JOBS.c.name, JOBS.c.profile).where(_is_due(owner, now)).order_by(JOBS.c.created, JOBS.c.name)
    return [Due(*row) for row in session.execute(query).all()]


def get_due(session: Session, name: str, owner: str, now: datetime) -> Job | None:
    """One of them as a whole; None where somebody else took it since."""
    row = session.execute(select(JOBS).where(JOBS.c.name == name, _is_due(owner, now))).mappings().first()
    return None if row is None else _job(row)


def _is_due(owner: str, now: datetime) -> ColumnElement[bool]:
    return and_(JOBS.c.state == State.QUEUED.value, JOBS.c.not_before <= now, _is_free_for(owner, now))


def _is_free_for(owner: str, now: datetime) -> ColumnElement[bool]:
    return or_(JOBS.c.lease_owner.in_(["", owner]), JOBS.c.lease_until < now)


def take_lease(session: Session, job: Job, owner: str, now: datetime, seconds: float) -> Job:
    return save_job(session, job, lease_owner=owner, lease_until=now + timedelta(seconds=seconds))


def jobs_under_way(session: Session) -> list[UnderWay]:
    """Every job that has an attempt under way, whoever looks after it."""
    columns = (JOBS.c.name, JOBS.c.profile, JOBS.c.lease_owner)
    query = select(*columns).where(JOBS.c.state.in_([state.value for state in UNDER_WAY]))
    return [UnderWay(*row) for row in session.execute(query).all()]


def count_by_state(session: Session) -> dict[State, int]:
    query = select(JOBS.c.state, func.count()).group_by(JOBS.c.state)
    return {State(state): count for state, count in session.execute(query).all()}


def insert_attempt(session: Session, attempt: Attempt) -> None:
    session.execute(ATTEMPTS.insert().values(**_columns(attempt)))


def get_attempt(session: Session, name: str) -> Attempt | None:
    row = select_one(session, ATTEMPTS, name=name)
    return None if row is None else Attempt(**{**row, "failure": _failure(row["failure"])})


def save_attempt(session: Session, name: str, **values: object) -> None:
    stored = {key: _plain(value) for key, value in values.items()}
    session.execute(ATTEMPTS.update().where(ATTEMPTS.c.name == name).values(**stored))


def worked_seconds(session: Session, job: str, now: datetime) -> float:
    """How long the job's attempts took, all together, the one under way until now."""
    query = select(ATTEMPTS.c.started, ATTEMPTS.c.ended).where(ATTEMPTS.c.job == job)
    times: Sequence[Any] = session.execute(query).all()
    return float(sum((max(ended or now, started) - started).total_seconds() for started, ended in times))


def append_events(session: Session, job: Job, events: Sequence[Event]) -> tuple[Job, list[Event]]:
    """Stores the events whose keys are new, numbered on from the job's last; a repeated key is ignored.

    The job's row carries the count and is written by version, so that numbers become visible in rising order.
    """
    keys = [event.key for event in events]
    known = set(session.scalars(select(EVENTS.c.key).where(EVENTS.c.job == job.name, EVENTS.c.key.in_(keys))))
    new: dict[str, Event] = {}
    for event in events:
        if event.key not in known and event.key not in new:
            new[event.key] = replace(event, cursor=job.events + len(new) + 1)
    if not new:
        return job, []
    session.execute(EVENTS.insert(), [_columns(event) | {"job": job.name} for event in new.values()])
    return save_job(session, job, events=job.events + len(new)), list(new.values())


def list_events(
    session: Session, job: str, cursor: int | None, limit: int, where: Sequence[Any], *, descending: bool
) -> list[Event]:
    """Events beyond the cursor in the given direction."""
    conditions = [EVENTS.c.job == job, *where]
    if cursor is not None:
        conditions.append(EVENTS.c.cursor < cursor if descending else EVENTS.c.cursor > cursor)
    order = EVENTS.c.cursor.desc() if descending else EVENTS.c.cursor.asc()
    query = select(EVENTS).where(*conditions).order_by(order).limit(limit)
    return [_event(row) for row in session.execute(query).mappings()]


def put_checkpoint(session: Session, checkpoint: Checkpoint) -> None:
    """Notes a checkpoint once; the best one is the newest that was reported as best."""
    insert_ignore(session, CHECKPOINTS, [_columns(checkpoint)])
    if checkpoint.best:
        others = (CHECKPOINTS.c.job == checkpoint.job) & (CHECKPOINTS.c.step != checkpoint.step)
        session.execute(CHECKPOINTS.update().where(others).values(best=False))


def checkpoint_steps(session: Session, job: str) -> list[int]:
    return list(session.scalars(select(CHECKPOINTS.c.step).where(CHECKPOINTS.c.job == job)))


def drop_checkpoints(session: Session, job: str, steps: Sequence[int]) -> None:
    session.execute(CHECKPOINTS.delete().where(CHECKPOINTS.c.job == job, CHECKPOINTS.c.step.in_(steps)))


def list_checkpoints(
    session: Session, job: str, before: int | None, limit: int, where: Sequence[Any]
) -> list[Checkpoint]:
    """Newest first."""
    conditions = [CHECKPOINTS.c.job == job, *where]
    if before is not None:
        conditions.append(CHECKPOINTS.c.step < before)
    query = select(CHECKPOINTS).where(*conditions).order_by(CHECKPOINTS.c.step.desc()).limit(limit)
    return [Checkpoint(**row) for row in session.execute(query).mappings()]


def newest_checkpoint_step(session: Session, job: str) -> int | None:
    step: int | None = session.scalar(select(func.max(CHECKPOINTS.c.step)).where(CHECKPOINTS.c.job == job))
    return step


def _columns(row: Job | Attempt | Event | Checkpoint) -> dict[str, object]:
    return {column.name: _plain(getattr(row, column.name)) for column in fields(row)}


def _plain(value: object) -> object:
    if isinstance(value, Recipe | Failure):
        return value.model_dump(mode="json")
    if isinstance(value, State):
        return value.value
    return dict(value) if isinstance(value, Mapping) else value


def _job(row: RowMapping | Mapping[str, Any]) -> Job:
    recipe = Recipe.model_validate(row["recipe"])
    return Job(**{**row, "state": State(row["state"]), "recipe": recipe, "failure": _failure(row["failure"])})


def _event(row: RowMapping) -> Event:
    return Event(**{key: value for key, value in row.items() if key != "job"})


def _failure(value: object) -> Failure | None:
    return None if value is None else Failure.model_validate(value)
