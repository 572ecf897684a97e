"""The table of rows measured for verdicts and calibrations: stored once, by position, so that a killed one goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, Integer, String, Table, select

from feinschliff.evaluation.store import METADATA, storable
from feinschliff.kit.db import Json, Session, insert_ignore

MEASURED = Table(
    "evaluation_measured",
    METADATA,
    Column("owner", String(300), primary_key=True),
    Column("part", String(64), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("data", Json, nullable=False),
)


def measured(session: Session, owner: str, part: str) -> dict[int, dict[str, Any]]:
    """What is stored of one part of a verdict or calibration, by position."""
    query = select(MEASURED.c.position, MEASURED.c.data).where(MEASURED.c.owner == owner, MEASURED.c.part == part)
    return {row.position: row.data for row in session.execute(query.order_by(MEASURED.c.position))}


def put_measured(session: Session, owner: str, part: str, position: int, data: Mapping[str, object]) -> bool:
    """False, and nothing changes, where the position is stored already."""
    row = storable({"owner": owner, "part": part, "position": position, "data": data})
    return insert_ignore(session, MEASURED, [row]) == 1
