"""The table of inference: deployments, wanted and seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Column, Integer, String, Table, func, select, tuple_
from sqlalchemy.engine import RowMapping

from feinschliff.inference.life import Deployment, Spec, State, Status
from feinschliff.kit.db import Json, Session, UtcDateTime, metadata_for, update_versioned
from feinschliff.kit.filters import Order, conditions, time_value
from feinschliff.kit.idempotency import Ledger
from feinschliff.kit.paging import Page

METADATA = metadata_for("inference")
LEDGER = Ledger(METADATA, "inference")

DEPLOYMENTS = Table(
    "inference_deployments",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("parent", String(100), nullable=False, index=True),
    Column("state", String(20), nullable=False),
    Column("spec", Json, nullable=False),
    Column("status", Json, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)
_C = DEPLOYMENTS.c

FIELDS = {
    "state": _C.state,
    "base_model": _C.spec["base_model"].as_string(),
    "create_time": _C.created,
    "labels": _C.spec["labels"],
}
READERS: Mapping[str, Callable[[str], Any]] = {
    "state": lambda text: State(text.removeprefix("STATE_").lower()).value,
    "create_time": time_value,
}
ORDERS = {"create_time": _C.created, "name": _C.name}


def find(session: Session, name: str, *, lock: bool = False) -> Deployment | None:
    """The row, or None; `lock` keeps other writers of it away until the transaction ends."""
    query = select(DEPLOYMENTS).where(_C.name == name, ~_C.deleted)
    row = session.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    return None if row is None else _deployment(row)


def everything(session: Session) -> list[Deployment]:
    rows = session.execute(select(DEPLOYMENTS).where(~_C.deleted).order_by(_C.name)).mappings()
    return [_deployment(row) for row in rows]


def count(session: Session, parent: str, filter_text: str) -> int:
    return int(session.execute(select(func.count()).where(*_matching(parent, filter_text))).scalar_one())


def page_of(session: Session, parent: str, filter_text: str, order: Order, page: Page) -> list[Deployment]:
    """One row more than the page has, where there is one; after the page's key (order value, name)."""
    column = ORDERS[order.field]
    query = select(DEPLOYMENTS).where(*_matching(parent, filter_text))
    if page.after:
        value = time_value(str(page.after[0])) if order.field == "create_time" else page.after[0]
        here, key = tuple_(column, _C.name), (value, page.after[1])
        query = query.where(here < key if order.descending else here > key)
    columns = [column.desc(), _C.name.desc()] if order.descending else [column, _C.name]
    rows: Sequence[RowMapping] = session.execute(query.order_by(*columns).limit(page.size + 1)).mappings().all()
    return [_deployment(row) for row in rows]


def insert(session: Session, deployment: Deployment) -> int:
    """Adds a row, in the place of a deleted one of that name if there was one; its first row version.

    The version goes on counting over a deletion, so that a watcher's cursor stays true.
    """
    old = session.execute(select(_C.version).where(_C.name == deployment.name)).scalar_one_or_none()
    version = (old or 0) + 1
    if old is not None:
        session.execute(DEPLOYMENTS.delete().where(_C.name == deployment.name))
    values = {
        "name": deployment.name,
        "parent": deployment.name.partition("/deployments/")[0],
        "state": deployment.status.state.value,
        "spec": deployment.spec.model_dump(mode="json"),
        "status": deployment.status.model_dump(mode="json"),
        "generation": deployment.generation,
        "deleted": False,
        "created": deployment.created,
        "updated": deployment.updated,
        "version": version,
    }
    session.execute(DEPLOYMENTS.insert().values(**values))
    return version


def write_spec(session: Session, deployment: Deployment, spec: Spec, status: Status, now: datetime) -> None:
    """Raises Conflict ROW_CHANGED where someone wrote since `deployment` was read."""
    values = {
        "spec": spec.model_dump(mode="json"),
        "status": status.model_dump(mode="json"),
        "state": status.state.value,
        "generation": deployment.generation + 1,
        "updated": now,
    }
    update_versioned(session, DEPLOYMENTS, {"name": deployment.name}, deployment.version, values)


def write_status(session: Session, deployment: Deployment, status: Status, now: datetime) -> None:
    """Raises Conflict ROW_CHANGED where someone wrote since `deployment` was read."""
    values = {"status": status.model_dump(mode="json"), "state": status.state.value, "updated": now}
    update_versioned(session, DEPLOYMENTS, {"name": deployment.name}, deployment.version, values)


def bury(session: Session, deployment: Deployment, now: datetime) -> None:
    """Deletes the row for all who read, and keeps its version."""
    update_versioned(
        session, DEPLOYMENTS, {"name": deployment.name}, deployment.version, {"deleted": True, "updated": now}
    )


def version_of_deleted(session: Session, name: str) -> int | None:
    query = select(_C.version).where(_C.name == name, _C.deleted)
    return session.execute(query).scalar_one_or_none()


def _matching(parent: str, filter_text: str) -> list[Any]:
    return [_C.parent == parent, ~_C.deleted, *conditions(filter_text, FIELDS, READERS)]


def _deployment(row: RowMapping) -> Deployment:
    return Deployment(
        name=row["name"],
        spec=Spec.model_validate(row["spec"]),
        status=Status.model_validate(row["status"]),
        generation=row["generation"],
        version=row["version"],
        created=row["created"],
        updated=row["updated"],
    )
