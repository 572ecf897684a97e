"""Writes that notice each other: insert if new, update if unchanged."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import CursorResult, Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from feinschliff.kit.errors import Conflict


def insert_ignore(session: Session, table: Table, rows: Sequence[Mapping[str, object]]) -> int:
    """Inserts the rows whose keys are new; says how many were."""
    if not rows:
        return 0
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return len(session.execute(statement, [dict(row) for row in rows]).all())


def select_one(session: Session, table: Table, **equal: object) -> Mapping[str, Any] | None:
    """The row with these values, or None."""
    statement = select(table).where(*(table.c[name] == value for name, value in equal.items()))
    row = session.execute(statement).mappings().one_or_none()
    return None if row is None else dict(row)


def update_versioned(
    session: Session, table: Table, key: Mapping[str, object], version: int, values: Mapping[str, object]
) -> None:
    """Writes `values` and version + 1 to the row that still has `version`.

    Raises:
        Conflict: ROW_CHANGED where no row has that key and version.
    """
    matching = [table.c[name] == value for name, value in key.items()] + [table.c.version == version]
    result = session.execute(table.update().where(*matching).values(**values, version=version + 1))
    if not isinstance(result, CursorResult) or result.rowcount != 1:
        raise Conflict(
            "ROW_CHANGED",
            "Someone else changed it first; read it again and retry.",
            key=", ".join(str(value) for value in key.values()),
            version=version,
        )
