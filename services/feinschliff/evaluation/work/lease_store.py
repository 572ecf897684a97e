"""Leases on rows of any table that has a name, a state, and the two columns of a lease."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Table, select

from feinschliff.evaluation.store import touched
from feinschliff.kit.db import Session

__all__ = ["Lease", "Table", "claim", "keep", "unfinished"]


class Lease(NamedTuple):
    """Who works on a row, and until when that holds."""

    name: str
    request_id: str
    lease_owner: str
    lease_until: datetime


def unfinished(session: Session, table: Table, states: Collection[str]) -> list[Lease]:
    """Oldest first."""
    columns = [table.c[name] for name in Lease._fields]
    query = select(*columns).where(table.c.state.in_(states)).order_by(table.c.created, table.c.name)
    return [Lease(*row) for row in session.execute(query)]


def claim(session: Session, table: Table, seen: Lease, states: Collection[str], owner: str, until: datetime) -> bool:
    """False where another was faster, or the work is over by now."""
    as_seen = _of(table, seen.name, seen.lease_owner) & (table.c.lease_until == seen.lease_until)
    return _write(session, table, as_seen & table.c.state.in_(states), owner, until)


def keep(session: Session, table: Table, name: str, owner: str, until: datetime, *, gives_back: bool = False) -> bool:
    """Keeps a lease, or gives it back; False where it is no longer ours."""
    return _write(session, table, _of(table, name, owner), "" if gives_back else owner, until)


def _of(table: Table, name: str, owner: str) -> ColumnElement[bool]:
    return (table.c.name == name) & (table.c.lease_owner == owner)


def _write(session: Session, table: Table, where: ColumnElement[bool], owner: str, until: datetime) -> bool:
    values = {"lease_owner": owner, "lease_until": until}
    return touched(session, table.update().where(where).values(**values)) == 1
