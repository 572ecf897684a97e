"""Versions of prompts as they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Integer, String, Table, UniqueConstraint, func, select

from feinschliff.evaluation.resources import Sampling
from feinschliff.evaluation.store import METADATA, Listed, list_rows, storable
from feinschliff.kit.db import Json, Session, UtcDateTime, insert_ignore, select_one
from feinschliff.kit.filters import Order
from feinschliff.kit.paging import Page

PROMPTS = Table(
    "evaluation_prompts",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("project", String(100), nullable=False, index=True),
    Column("prompt", String(190), nullable=False),
    Column("number", Integer, nullable=False),
    Column("messages", Json, nullable=False),
    Column("tools", Json, nullable=False),
    Column("sampling", Json, nullable=False),
    Column("description", String(4096), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    UniqueConstraint("prompt", "number"),
)
FIELDS = {"create_time": PROMPTS.c.created, "labels": PROMPTS.c.labels}
ORDERS = {"create_time": PROMPTS.c.created}


@dataclass(frozen=True)
class StoredPrompt:
    """One version; `prompt` is the name without it."""

    name: str
    project: str
    prompt: str
    number: int
    messages: Sequence[Mapping[str, object]]
    tools: Sequence[Mapping[str, object]]
    sampling: Sampling
    description: str
    sha256: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    created: datetime


def insert(session: Session, prompt: StoredPrompt) -> bool:
    return insert_ignore(session, PROMPTS, [storable(asdict(prompt))]) == 1


def newest_number(session: Session, prompt: str) -> int:
    """0 where there is none."""
    return int(
        session.scalar(select(func.coalesce(func.max(PROMPTS.c.number), 0)).where(PROMPTS.c.prompt == prompt)) or 0
    )


def newest(session: Session, prompt: str) -> StoredPrompt | None:
    query = select(PROMPTS.c.name).where(PROMPTS.c.prompt == prompt).order_by(PROMPTS.c.number.desc()).limit(1)
    return get(session, session.scalar(query) or "")


def get(session: Session, name: str) -> StoredPrompt | None:
    row = select_one(session, PROMPTS, name=name)
    return None if row is None else of_row(row)


def of_row(row: Mapping[str, Any]) -> StoredPrompt:
    return StoredPrompt(**{field.name: row[field.name] for field in fields(StoredPrompt)})


def versions(session: Session, prompt: str, where: Sequence[Any], order: Order, page: Page) -> Listed:
    """All versions of one prompt."""
    return _page(session, [PROMPTS.c.prompt == prompt, *where], order, page)


def newest_of_each(session: Session, project: str, where: Sequence[Any], order: Order, page: Page) -> Listed:
    newer = PROMPTS.alias()
    has_newer = select(newer.c.name).where(newer.c.prompt == PROMPTS.c.prompt, newer.c.number > PROMPTS.c.number)
    return _page(session, [PROMPTS.c.project == project, ~has_newer.exists(), *where], order, page)


def _page(session: Session, where: Sequence[Any], order: Order, page: Page) -> Listed:
    return list_rows(session, PROMPTS, where, ORDERS[order.field], PROMPTS.c.name, order, page)
