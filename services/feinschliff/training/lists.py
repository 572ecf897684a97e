"""Reading many: jobs, events, metrics and checkpoints, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from feinschliff.kit import names
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import NotFound
from feinschliff.kit.filters import Order, conditions, parse_order, time_value
from feinschliff.kit.paging import Page
from feinschliff.training import store
from feinschliff.training.jobs import JOB, PROJECT
from feinschliff.training.proto import from_state_name
from feinschliff.training.store import CHECKPOINTS, EVENTS, JOBS, Checkpoint, Event, Job

CHECKPOINT = JOB + "/checkpoints/{checkpoint}"
WATCH_BATCH = 200
T = TypeVar("T")
Readers = Mapping[str, Callable[[str], Any]]

JOB_FIELDS = {
    "state": JOBS.c.state,
    "create_time": JOBS.c.created,
    "recipe.base_model": JOBS.c.recipe["base_model"].as_string(),
    "recipe.output_model": JOBS.c.recipe["output_model"].as_string(),
    "labels": JOBS.c.labels,
}
JOB_READERS: Readers = {"state": from_state_name, "create_time": time_value}
EVENT_FIELDS = {"level": EVENTS.c.level, "key": EVENTS.c.key, "cursor": EVENTS.c.cursor, "time": EVENTS.c.time}
EVENT_READERS: Readers = {"cursor": int, "time": time_value, "level": str.lower}
METRIC_FIELDS = {"phase": EVENTS.c.detail["phase"].as_string(), "step": EVENTS.c.detail["step"].as_integer()}
METRIC_READERS: Readers = {"step": int, "phase": lambda text: str(text).removeprefix("PHASE_").lower()}
CHECKPOINT_FIELDS = {"step": CHECKPOINTS.c.step, "best": CHECKPOINTS.c.best}
CHECKPOINT_READERS: Readers = {"step": int, "best": lambda text: {"true": True, "false": False}[text.lower()]}


@dataclass(frozen=True)
class Listed(Generic[T]):
    items: Sequence[T]
    next_token: str


@dataclass(frozen=True)
class Marked:
    """A checkpoint, and whether it is the job's newest."""

    checkpoint: Checkpoint
    last: bool


class Lists:
    """Every method reads in one short transaction and raises Invalid for a bad token, filter or order."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def jobs(self, parent: str, token: str, size: int, filter_text: str, order_by: str) -> Listed[Job]:
        names.parse(PROJECT, parent, field="parent")
        order = parse_order(order_by, ["create_time"], Order("create_time", descending=True))
        page = Page.open(token, size, "jobs", parent, filter_text, order_by)
        where = conditions(filter_text, JOB_FIELDS, JOB_READERS)
        with self._database.reading() as session:
            found = store.list_jobs(session, parent, page, where, descending=order.descending)
        last = found[page.size - 1] if len(found) > page.size else None
        return Listed(found[: page.size], page.token(last.created.isoformat(), last.name) if last else "")

    def events(self, job: str, token: str, size: int, filter_text: str, order_by: str) -> Listed[Event]:
        order = parse_order(order_by, ["cursor"], Order("cursor", descending=False))
        page = Page.open(token, size, "events", job, filter_text, order_by)
        where = conditions(filter_text, EVENT_FIELDS, EVENT_READERS)
        return self._events(job, page, where, descending=order.descending)

    def metrics(
        self, job: str, token: str, size: int, filter_text: str, steps: tuple[int, int | None]
    ) -> Listed[Event]:
        page = Page.open(token, size, "metrics", job, filter_text, str(steps))
        step = METRIC_FIELDS["step"]
        where = [
            *conditions(filter_text, METRIC_FIELDS, METRIC_READERS),
            EVENTS.c.detail["kind"].as_string() == "metrics",
            step >= steps[0],
            *([step <= steps[1]] if steps[1] is not None else []),
        ]
        return self._events(job, page, where, descending=False)

    def events_after(self, job: str, cursor: int) -> list[Event]:
        with self._database.reading() as session:
            return store.list_events(session, job, cursor, WATCH_BATCH, [], descending=False)

    def checkpoints(self, job: str, token: str, size: int, filter_text: str) -> Listed[Marked]:
        page = Page.open(token, size, "checkpoints", job, filter_text)
        where = conditions(filter_text, CHECKPOINT_FIELDS, CHECKPOINT_READERS)
        with self._database.reading() as session:
            _require(session, job)
            newest = store.newest_checkpoint_step(session, job)
            before = int(page.after[0]) if page.after else None
            found = store.list_checkpoints(session, job, before, page.size + 1, where)
        items = [Marked(one, last=one.step == newest) for one in found[: page.size]]
        more = len(found) > page.size
        return Listed(items, page.token(items[-1].checkpoint.step) if more else "")

    def checkpoint(self, name: str) -> Marked:
        """Raises NotFound CHECKPOINT_NOT_FOUND."""
        job, step = job_and_step(name)
        with self._database.reading() as session:
            found = store.list_checkpoints(session, job, None, 1, [CHECKPOINTS.c.step == step])
            newest = store.newest_checkpoint_step(session, job)
        if not found:
            raise NotFound("CHECKPOINT_NOT_FOUND", f"There is no checkpoint {name}.", checkpoint=name)
        return Marked(found[0], last=found[0].step == newest)

    def _events(self, job: str, page: Page, where: list[Any], *, descending: bool) -> Listed[Event]:
        cursor = int(page.after[0]) if page.after else None
        with self._database.reading() as session:
            _require(session, job)
            found = store.list_events(session, job, cursor, page.size + 1, where, descending=descending)
        more = len(found) > page.size
        return Listed(found[: page.size], page.token(found[page.size - 1].cursor) if more else "")


def job_and_step(name: str) -> tuple[str, int]:
    """Job and step of a checkpoint's name."""
    ids = names.parse(CHECKPOINT, name)
    step = ids["checkpoint"]
    if not step.isdigit():
        raise NotFound("CHECKPOINT_NOT_FOUND", f"There is no checkpoint {name}; its id is a step.", checkpoint=name)
    return name.rsplit("/checkpoints/", 1)[0], int(step)


def _require(session: Session, job: str) -> None:
    names.parse(JOB, job, field="parent")
    if store.get_job(session, job) is None:
        raise NotFound("JOB_NOT_FOUND", f"There is no job {job}.", job=job)
