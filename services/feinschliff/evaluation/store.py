"""The tables of evaluation: evals, runs, output items and their grades."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    CursorResult,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    func,
    or_,
    select,
)
from sqlalchemy.engine import RowMapping

from feinschliff.evaluation.life import UNFINISHED, State
from feinschliff.evaluation.resources import Eval, GraderResult, Run
from feinschliff.formats.records import Message
from feinschliff.formats.report import Failure
from feinschliff.graders.grade import Judgement
from feinschliff.kit.db import (
    Json,
    Session,
    UtcDateTime,
    insert_ignore,
    metadata_for,
    select_one,
    update_versioned,
)
from feinschliff.kit.errors import Conflict
from feinschliff.kit.filters import Order, time_value
from feinschliff.kit.idempotency import Ledger
from feinschliff.kit.paging import Page

METADATA = metadata_for("evaluation")
LEDGER = Ledger(METADATA, "evaluation")

EVALS = Table(
    "evaluation_evals",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("parent", String(100), nullable=False, index=True),
    Column("display_name", String(256), nullable=False),
    Column("description", String(4096), nullable=False),
    Column("dataset_version", String(300), nullable=False),
    Column("prompt", Json, nullable=False),
    Column("graders", Json, nullable=False),
    Column("sampling", Json, nullable=False),
    Column("split", String(20), nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("item_schema", Json),
)

RUNS = Table(
    "evaluation_runs",
    METADATA,
    Column("name", String(300), primary_key=True),
    Column("eval", String(200), ForeignKey(EVALS.c.name, ondelete="CASCADE"), nullable=False, index=True),
    Column("project", String(100), nullable=False, index=True),
    Column("display_name", String(256), nullable=False),
    Column("model", String(500), nullable=False),
    Column("dataset_version", String(300), nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("sampling", Json, nullable=False),
    Column("prompt", Json),
    Column("answer_path", String(1000), nullable=False),
    Column("split", String(20), nullable=False),
    Column("limit", BigInteger, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("failure", Json),
    Column("results", Json),
    Column("request_id", String, nullable=False),
    Column("lease_owner", String(100), nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("started", UtcDateTime),
    Column("finished", UtcDateTime),
    Column("changes", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("samples", Integer, nullable=False, server_default="1"),
    Column("has_own_rows", Boolean, nullable=False, server_default=false()),
    Column("tools", Json),
    Column("completions", Json),
    Column("examples", Json),
    Column("judge_usage", Json),
)

ITEMS = Table(
    "evaluation_items",
    METADATA,
    Column("run", String(300), ForeignKey(RUNS.c.name, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("line", Integer, nullable=False),
    Column("item", Json, nullable=False),
    Column("prompt", Json, nullable=False),
    Column("message", Json),
    Column("finish_reason", String(20), nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("reasoning_tokens", Integer, nullable=False),
    Column("latency_seconds", Float, nullable=False),
    Column("model_version", String),
    Column("base_digest", String),
    Column("adapter_digest", String),
    Column("template_hash", String),
    Column("passed", Boolean),
    Column("errored", Boolean, nullable=False),
    Column("error", Json),
    Column("created", UtcDateTime, nullable=False),
    Column("sample_index", Integer, nullable=False, server_default="0"),
    Column("row_key", String(32), nullable=False, server_default=""),
    UniqueConstraint("run", "line", "sample_index"),
)

GRADES = Table(
    "evaluation_grades",
    METADATA,
    Column("run", String(300), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("grader", String(100), nullable=False),
    Column("value", Float),
    Column("passed", Boolean, nullable=False),
    Column("why", String(4096), nullable=False),
    Column("fault", String(20), nullable=False),
    Column("raw", Float),
    Column("label", Text, nullable=False),
    Column("expected_label", Text, nullable=False),
    Column("parts", Json, nullable=False),
    Column("judgements", Json, nullable=False),
    ForeignKeyConstraint(["run", "position"], [ITEMS.c.run, ITEMS.c.position], ondelete="CASCADE"),
)

_AS_THEY_ARE = frozenset({bool, int, float, datetime, type(None)})
EVAL_FIELDS = {
    "display_name": EVALS.c.display_name,
    "dataset_version": EVALS.c.dataset_version,
    "create_time": EVALS.c.created,
    "update_time": EVALS.c.updated,
    "labels": EVALS.c.labels,
}
EVAL_READERS = {"create_time": time_value, "update_time": time_value}
EVAL_ORDERS = {
    "create_time": EVALS.c.created,
    "update_time": EVALS.c.updated,
    "display_name": EVALS.c.display_name,
}
RUN_FIELDS = {
    "state": RUNS.c.state,
    "model": RUNS.c.model,
    "create_time": RUNS.c.created,
    "labels": RUNS.c.labels,
}
RUN_READERS: Mapping[str, Callable[[str], Any]] = {
    "state": lambda text: State(text.removeprefix("STATE_").lower()).value,
    "create_time": time_value,
}
RUN_ORDERS = {"create_time": RUNS.c.created, "model": RUNS.c.model, "display_name": RUNS.c.display_name}


class Listed(NamedTuple):
    """One page of rows, the token of the next page (empty on the last one), and how many match on all pages."""

    rows: Sequence[Mapping[str, Any]]
    next_page_token: str
    total: int


def insert_eval(session: Session, eval_: Eval) -> bool:
    return insert_ignore(session, EVALS, [_columns(eval_)]) == 1


def get_eval(session: Session, name: str) -> Eval | None:
    row = select_one(session, EVALS, name=name)
    return None if row is None else eval_of_row(row)


def eval_of_row(row: Mapping[str, Any]) -> Eval:
    return Eval(**row)


def save_eval(session: Session, before: Eval, **changes: object) -> Eval:
    """Writes the changed fields to the row as it was read; raises Conflict ROW_CHANGED."""
    update_versioned(session, EVALS, {"name": before.name}, before.version, storable(changes))
    return replace(before, **changes, version=before.version + 1)  # type: ignore[arg-type]


def delete_eval(session: Session, eval_: Eval) -> None:
    """Removes an eval with its runs and items; raises Conflict ROW_CHANGED."""
    update_versioned(session, EVALS, {"name": eval_.name}, eval_.version, {})
    for name in session.scalars(select(RUNS.c.name).where(RUNS.c.eval == eval_.name)).all():
        delete_run(session, name)
    session.execute(EVALS.delete().where(EVALS.c.name == eval_.name))


def list_evals(session: Session, parent: str, where: Sequence[Any], order: Order, page: Page) -> Listed:
    """The evals of a project as rows; `eval_of_row` reads them."""
    conditions = [EVALS.c.parent == parent, *where]
    return list_rows(session, EVALS, conditions, EVAL_ORDERS[order.field], EVALS.c.name, order, page)


def insert_run(session: Session, run: Run) -> bool:
    return insert_ignore(session, RUNS, [_columns(run)]) == 1


def get_run(session: Session, name: str) -> Run | None:
    row = select_one(session, RUNS, name=name)
    return None if row is None else run_of_row(row)


def lock_run(session: Session, name: str) -> Run | None:
    """The run, and until the transaction ends nobody else writes it."""
    row = session.execute(select(RUNS).where(RUNS.c.name == name).with_for_update()).mappings().one_or_none()
    return None if row is None else run_of_row(row)


def list_runs(
    session: Session, project: str, eval_: str | None, where: Sequence[Any], order: Order, page: Page
) -> Listed:
    """The runs of one eval, or of a project where `eval_` is None, as rows; `run_of_row` reads them."""
    conditions = [RUNS.c.project == project, *where] + ([RUNS.c.eval == eval_] if eval_ is not None else [])
    return list_rows(session, RUNS, conditions, RUN_ORDERS[order.field], RUNS.c.name, order, page)


def save_run(session: Session, before: Run, **changes: object) -> Run:
    """Writes a change of state that a watcher sees; raises Conflict ROW_CHANGED.

    Items are stored meanwhile and count `changes` on, so both counters are written relative to what is there.
    """
    values = {**storable(changes), "changes": RUNS.c.changes + 1}
    update_versioned(session, RUNS, {"name": before.name}, before.version, values)
    after = get_run(session, before.name)
    if after is None:
        raise Conflict("ROW_CHANGED", "Someone else removed it.", run=before.name)
    return after


def delete_run(session: Session, name: str) -> None:
    session.execute(GRADES.delete().where(GRADES.c.run == name))
    session.execute(ITEMS.delete().where(ITEMS.c.run == name))
    session.execute(RUNS.delete().where(RUNS.c.name == name))


def unfinished_runs(session: Session) -> list[Run]:
    """Runs that are not over, oldest first."""
    states = [state.value for state in UNFINISHED]
    query = select(RUNS).where(RUNS.c.state.in_(states)).order_by(RUNS.c.created, RUNS.c.name)
    return [run_of_row(row) for row in session.execute(query).mappings()]


def count_by_state(session: Session) -> dict[State, int]:
    query = select(RUNS.c.state, func.count()).group_by(RUNS.c.state)
    return {State(state): count for state, count in session.execute(query).all()}


def claim(session: Session, run: Run, owner: str, now: datetime, lease_seconds: float) -> Run:
    """Takes a run that nobody works on, and marks it running; raises Conflict ROW_CHANGED if another was faster."""
    return save_run(
        session,
        run,
        state=State.RUNNING,
        started=run.started or now,
        lease_owner=owner,
        lease_until=now + timedelta(seconds=lease_seconds),
    )


def renew(session: Session, name: str, owner: str, until: datetime) -> bool:
    """Keeps a lease; False where it is no longer ours."""
    mine = (RUNS.c.name == name) & (RUNS.c.lease_owner == owner)
    return touched(session, RUNS.update().where(mine).values(lease_until=until)) == 1


def release(session: Session, name: str, owner: str, now: datetime) -> None:
    mine = (RUNS.c.name == name) & (RUNS.c.lease_owner == owner)
    session.execute(RUNS.update().where(mine).values(lease_owner="", lease_until=now))


def list_rows(
    session: Session,
    table: Table,
    where: Sequence[Any],
    column: ColumnElement[Any],
    last: ColumnElement[Any],
    order: Order,
    page: Page,
) -> Listed:
    """One page by `column`; `last` is unique and decides between equal ones."""
    keys = [column.desc(), last.desc()] if order.descending else [column.asc(), last.asc()]
    query = select(table).where(*where).order_by(*keys)
    if page.after is not None:
        query = query.where(_beyond(column, last, page.after, order.descending))
    rows = [dict(row) for row in session.execute(query.limit(page.size + 1)).mappings()]
    total = session.scalar(select(func.count()).select_from(table).where(*where)) or 0
    if len(rows) <= page.size:
        return Listed(rows, "", total)
    end = rows[page.size - 1]
    return Listed(rows[: page.size], page.token(_key_part(end[str(column.key)]), _key_part(end[str(last.key)])), total)


def _beyond(
    column: ColumnElement[Any], last: ColumnElement[Any], after: Sequence[object], is_descending: bool
) -> ColumnElement[bool]:
    first, second = after
    value = datetime.fromisoformat(str(first)) if isinstance(column.type, UtcDateTime) else first
    if is_descending:
        return or_(column < value, and_(column == value, last < second))
    return or_(column > value, and_(column == value, last > second))


def _key_part(value: object) -> str | int | float:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str | int | float) else str(value)


def touched(session: Session, statement: Any) -> int:
    result = session.execute(statement)
    return result.rowcount if isinstance(result, CursorResult) else 0


def _columns(row: Eval | Run) -> dict[str, object]:
    return storable({column.name: getattr(row, column.name) for column in fields(row)})


def run_of_row(row: Mapping[str, Any] | RowMapping) -> Run:
    failure = None if row["failure"] is None else Failure.model_validate(row["failure"])
    results = None if row["results"] is None else [GraderResult.from_json(result) for result in row["results"]]
    return Run(**{**row, "state": State(row["state"]), "failure": failure, "results": results})


def _text(value: str) -> str:
    return value.replace("\x00", "\ufffd")


def storable(values: Mapping[str, object]) -> dict[str, object]:
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    """JSON values; NUL, which PostgreSQL has no place for, becomes the sign for what cannot be shown."""
    kind = type(value)
    if kind in _AS_THEY_ARE:  # the common ones first: every value of every item comes by
        return value
    if kind is dict:
        return {_text(str(key)): _plain(inner) for key, inner in value.items()}  # type: ignore[attr-defined]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, State):
        return value.value
    if isinstance(value, Message | Failure):
        return _plain(value.model_dump(mode="json", exclude_none=True))
    if isinstance(value, Judgement):
        return _plain(value._asdict())
    if isinstance(value, GraderResult):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
