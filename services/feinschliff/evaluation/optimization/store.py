"""Searches for better prompts as they are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Integer, String, Table, select

from feinschliff.evaluation.resources import NO_USAGE, Usage
from feinschliff.evaluation.store import METADATA, storable
from feinschliff.formats.report import Failure
from feinschliff.kit.db import Json, Session, UtcDateTime, insert_ignore, select_one, update_versioned
from feinschliff.kit.filters import time_value

OPTIMIZATION = "projects/{project}/promptOptimizations/{prompt_optimization}"
UNFINISHED = ("queued", "running")
FINAL = ("succeeded", "failed", "cancelled")

OPTIMIZATIONS = Table(
    "evaluation_optimizations",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("project", String(100), nullable=False, index=True),
    Column("state", String(20), nullable=False, index=True),
    Column("eval", String(200), nullable=False),
    Column("model", String(500), nullable=False),
    Column("proposer_model", String(500), nullable=False),
    Column("start_prompt", String(200), nullable=False),
    Column("candidates_max", Integer, nullable=False),
    Column("examples_max", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("best_prompt", String(200), nullable=False),
    Column("candidates", Json, nullable=False),
    Column("held_out", Json, nullable=False),
    Column("proposer_usage", Json, nullable=False),
    Column("failure", Json),
    Column("request_id", String, nullable=False),
    Column("lease_owner", String(100), nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("finished", UtcDateTime),
    Column("changes", Integer, nullable=False),
    Column("version", Integer, nullable=False),
)
FIELDS = {
    "state": OPTIMIZATIONS.c.state,
    "eval": OPTIMIZATIONS.c.eval,
    "create_time": OPTIMIZATIONS.c.created,
}
READERS: Mapping[str, Callable[[str], Any]] = {
    "state": lambda text: text.removeprefix("STATE_").lower(),
    "create_time": time_value,
}
ORDERS = {"create_time": OPTIMIZATIONS.c.created}


@dataclass(frozen=True)
class Optimization:
    """One search. `candidates` are `{"messages", "run", "mean"}`; the last one may still be measured (`mean` absent).

    `held_out` are the runs of the start and of the best prompt on rows that the search did not see.
    """

    name: str
    project: str
    eval: str
    model: str
    proposer_model: str
    start_prompt: str
    candidates_max: int
    examples_max: int
    seed: int
    created: datetime
    lease_until: datetime
    state: str = "queued"
    best_prompt: str = ""
    candidates: Sequence[Mapping[str, Any]] = ()
    held_out: Sequence[str] = ()
    proposer_usage: Usage = NO_USAGE
    failure: Failure | None = None
    request_id: str = ""
    lease_owner: str = ""
    finished: datetime | None = None
    changes: int = 1
    version: int = 1

    @property
    def measured(self) -> int:
        return sum("mean" in one for one in self.candidates)


def insert(session: Session, made: Optimization) -> bool:
    return insert_ignore(session, OPTIMIZATIONS, [_columns(made)]) == 1


def get(session: Session, name: str) -> Optimization | None:
    row = select_one(session, OPTIMIZATIONS, name=name)
    return None if row is None else of_row(row)


def lock(session: Session, name: str) -> Optimization | None:
    query = select(OPTIMIZATIONS).where(OPTIMIZATIONS.c.name == name).with_for_update()
    row = session.execute(query).mappings().one_or_none()
    return None if row is None else of_row(dict(row))


def save(session: Session, before: Optimization, **changes: Any) -> Optimization:
    """Writes changes that a watcher sees; raises Conflict ROW_CHANGED."""
    after = replace(before, **changes, changes=before.changes + 1, version=before.version + 1)
    columns = _columns(after)
    written = {name: columns[name] for name in (*changes, "changes")}
    update_versioned(session, OPTIMIZATIONS, {"name": before.name}, before.version, written)
    return after


def of_row(row: Mapping[str, Any]) -> Optimization:
    values = {field.name: row[field.name] for field in fields(Optimization)}
    values["failure"] = None if row["failure"] is None else Failure.model_validate(row["failure"])
    values["proposer_usage"] = Usage(*row["proposer_usage"])
    return Optimization(**values)


def _columns(made: Optimization) -> dict[str, object]:
    values = {field.name: getattr(made, field.name) for field in fields(made)}
    return storable({**values, "proposer_usage": list(made.proposer_usage)})
