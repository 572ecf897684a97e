"""Rows that a run brings itself: inline ones and stored completions, kept as they were when the run was made."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Column, ForeignKey, Integer, String, Table, select

from feinschliff.evaluation.store import METADATA, RUNS, storable
from feinschliff.graders.grade import Item
from feinschliff.kit.db import Json, Session

ROWS = Table(
    "evaluation_rows",
    METADATA,
    Column("run", String(300), ForeignKey(RUNS.c.name, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("data", Json, nullable=False),
)


def insert_rows(session: Session, run: str, rows: Sequence[Item]) -> None:
    if rows:
        session.execute(
            ROWS.insert(), [{"run": run, "position": k, **storable({"data": row})} for k, row in enumerate(rows, 1)]
        )


def read_rows(session: Session, run: str, *, after: int, limit: int) -> list[tuple[int, Item]]:
    """Rows behind position `after` with their positions, `limit` at most."""
    behind = (ROWS.c.run == run) & (ROWS.c.position > after)
    query = select(ROWS.c.position, ROWS.c.data).where(behind).order_by(ROWS.c.position).limit(limit)
    return [(position, data) for position, data in session.execute(query)]
