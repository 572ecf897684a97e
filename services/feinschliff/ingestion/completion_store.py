"""The tables of the completion log: exchanges, judgements of them, and what projects keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    tuple_,
)

from feinschliff.ingestion.completion_model import Completion, Feedback, Policy
from feinschliff.ingestion.listing import TIMES, Asked, Listing
from feinschliff.ingestion.store import LEDGER, METADATA, PageOf
from feinschliff.kit.db import Json, Session, UtcDateTime, insert_ignore, select_one, update_versioned

PAGE_BYTES_MAX = 8 * 1024**2  # half of what a gRPC message may have
RECORDED = "RecordCompletion "
"""What the ledger's scopes of recorded exchanges begin with."""

COMPLETIONS = Table(
    "ingestion_completions",
    METADATA,
    Column("project", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created", UtcDateTime, nullable=False),
    Column("model", String(1024), nullable=False),
    Column("deployment", String(400), nullable=False),
    Column("finish_reason", String(40), nullable=False),
    Column("user", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("metadata", Json, nullable=False),
    # Text, not JSON: it is never searched, and PostgreSQL's JSON cannot hold every character that a model may write.
    Column("content", Text, nullable=False),
    Column("content_bytes", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Index("ix_ingestion_completions_created", "project", "created", "id"),
    Index("ix_ingestion_completions_user", "project", "user"),
)

FEEDBACK = Table(
    "ingestion_feedback",
    METADATA,
    Column("project", String(64), primary_key=True),
    Column("completion", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created", UtcDateTime, nullable=False),
    Column("value", Float),
    Column("comment", Text, nullable=False),
    Column("correction", Text),
    Column("author", String(128), nullable=False),
    Column("labels", Json, nullable=False),
    Column("content_bytes", BigInteger, nullable=False),
    ForeignKeyConstraint(["project", "completion"], [COMPLETIONS.c.project, COMPLETIONS.c.id]),
    Index("ix_ingestion_feedback_created", "project", "created", "completion", "id"),
)

POLICIES = Table(
    "ingestion_completion_policies",
    METADATA,
    Column("project", String(64), primary_key=True),
    Column("retention_days", Integer, nullable=False),
    Column("sampled_fraction", Float, nullable=False),
    Column("redact", Json, nullable=False),
    Column("version", Integer, nullable=False),
)

COMPLETION_LISTING = Listing(
    filters={
        "model": COMPLETIONS.c.model,
        "deployment": COMPLETIONS.c.deployment,
        "create_time": COMPLETIONS.c.created,
        "finish_reason": COMPLETIONS.c.finish_reason,
        "user": COMPLETIONS.c.user,
        "metadata": COMPLETIONS.c.metadata,
    },
    orders={"create_time": COMPLETIONS.c.created},
    key=(COMPLETIONS.c.id,),
    readers={**TIMES, "finish_reason": lambda text: text.removeprefix("FINISH_REASON_")},
)
FEEDBACK_LISTING = Listing(
    filters={
        "value": FEEDBACK.c.value,
        "author": FEEDBACK.c.author,
        "create_time": FEEDBACK.c.created,
        "labels": FEEDBACK.c.labels,
    },
    orders={"create_time": FEEDBACK.c.created},
    key=(FEEDBACK.c.completion, FEEDBACK.c.id),
    readers={**TIMES, "value": float},
)


class Shelf(NamedTuple):
    """A project's log as it is to be seen now: what is older than its policy allows is not there any more."""

    policy: Policy
    now: datetime

    @property
    def within(self) -> list[Any]:
        oldest = self.policy.oldest(self.now)
        of_project = COMPLETIONS.c.project == self.policy.project
        return [of_project] if oldest is None else [of_project, COMPLETIONS.c.created >= oldest]

    @property
    def feedback_within(self) -> list[Any]:
        """Judgements go with their exchanges, not by a time of their own."""
        kept = select(COMPLETIONS.c.id).where(*self.within, COMPLETIONS.c.id == FEEDBACK.c.completion)
        return [FEEDBACK.c.project == self.policy.project, kept.exists()]


def insert_completion(session: Session, completion: Completion) -> bool:
    """False where its name is taken."""
    return insert_ignore(session, COMPLETIONS, [_row(completion)]) == 1


def read_completion(session: Session, shelf: Shelf, completion: str, *, for_update: bool = False) -> Completion | None:
    statement = select(COMPLETIONS).where(*shelf.within, COMPLETIONS.c.id == completion)
    row = session.execute(statement.with_for_update() if for_update else statement).mappings().one_or_none()
    return None if row is None else _completion(row, shelf.policy)


def list_completions(session: Session, shelf: Shelf, asked: Asked) -> PageOf[Completion]:
    """A page ends early where its exchanges would not fit into one answer."""
    matching = [*shelf.within, *asked.matching]
    rows, token, total = _page(session, COMPLETIONS, COMPLETION_LISTING, asked, matching)
    return PageOf([_completion(row, shelf.policy) for row in rows], token, total)


def write_metadata(session: Session, completion: Completion, metadata: Mapping[str, str]) -> Completion:
    """Raises Conflict ROW_CHANGED unless the row still has the exchange's revision."""
    key = {"project": completion.project, "id": completion.id}
    update_versioned(session, COMPLETIONS, key, completion.revision, {"metadata": dict(metadata)})
    return replace(completion, metadata=metadata, revision=completion.revision + 1)


def delete_completions(session: Session, project: str, ids: Sequence[str]) -> None:
    """The exchanges with their judgements."""
    session.execute(delete(FEEDBACK).where(FEEDBACK.c.project == project, FEEDBACK.c.completion.in_(ids)))
    session.execute(delete(COMPLETIONS).where(COMPLETIONS.c.project == project, COMPLETIONS.c.id.in_(ids)))


def projects_with_completions(session: Session) -> list[str]:
    return list(session.scalars(select(COMPLETIONS.c.project).distinct()))


def outdated(session: Session, project: str, before: datetime, limit: int) -> list[str]:
    """Ids of exchanges from before that moment, the oldest first."""
    old = select(COMPLETIONS.c.id).where(COMPLETIONS.c.project == project, COMPLETIONS.c.created < before)
    return list(session.scalars(old.order_by(COMPLETIONS.c.created).limit(limit)))


def forget_requests(session: Session, before: datetime) -> None:
    """Requests that recorded exchanges so long ago that nobody sends them again."""
    table = LEDGER.table
    session.execute(delete(table).where(table.c.method.startswith(RECORDED), table.c.created < before))


def insert_feedback(session: Session, feedback: Feedback) -> None:
    session.execute(insert(FEEDBACK).values(**_feedback_row(feedback)))


def read_feedback(session: Session, project: str, completion: str, feedback: str) -> Feedback | None:
    row = select_one(session, FEEDBACK, project=project, completion=completion, id=feedback)
    return None if row is None else _feedback(row)


def list_feedback(session: Session, shelf: Shelf, completion: str, asked: Asked) -> PageOf[Feedback]:
    """The completion `-` means all of the project."""
    matching = [*shelf.feedback_within, *asked.matching]
    if completion != "-":
        matching.append(FEEDBACK.c.completion == completion)
    rows, token, total = _page(session, FEEDBACK, FEEDBACK_LISTING, asked, matching)
    return PageOf([_feedback(row) for row in rows], token, total)


def read_policy(session: Session, project: str) -> Policy:
    """The project's policy; the default one where nobody has written it."""
    row = select_one(session, POLICIES, project=project)
    if row is None:
        return Policy(project)
    return Policy(project, row["retention_days"], row["sampled_fraction"], row["version"], tuple(row["redact"]))


def write_policy(session: Session, policy: Policy) -> Policy:
    """Raises Conflict ROW_CHANGED unless the policy still has its revision."""
    values = {
        "retention_days": policy.retention_days,
        "sampled_fraction": policy.sampled_fraction,
        "redact": list(policy.redact),
    }
    first = {"project": policy.project, **values, "version": 1}
    if policy.revision or not insert_ignore(session, POLICIES, [first]):
        update_versioned(session, POLICIES, {"project": policy.project}, policy.revision, values)
    return replace(policy, revision=policy.revision + 1)


def _page(
    session: Session, table: Table, listing: Listing, asked: Asked, matching: Sequence[Any]
) -> tuple[list[Mapping[Any, Any]], str, int]:
    """The sizes are read first, so that a page of large rows never comes into memory whole."""
    total = session.execute(select(func.count()).select_from(table).where(*matching)).scalar_one()
    keys = [*table.primary_key.columns]
    light = select(*keys, table.c.created, table.c.content_bytes).where(*matching, *listing.following(asked))
    ordered = light.order_by(*listing.ordering(asked)).limit(asked.page.size + 1)
    found = list(session.execute(ordered).mappings())
    shown = found[: _fitting([row["content_bytes"] for row in found[: asked.page.size]])]
    if not shown:
        return [], "", total
    wanted = [tuple(row[key.name] for key in keys) for row in shown]
    rows = session.execute(select(table).where(tuple_(*keys).in_(wanted)).order_by(*listing.ordering(asked)))
    return list(rows.mappings()), listing.token(asked, shown[-1]) if len(found) > len(shown) else "", total


def _fitting(sizes: Sequence[int]) -> int:
    """How many of the first fit into an answer; one does always."""
    taken = 0
    for count, size in enumerate(sizes):
        taken += size
        if taken > PAGE_BYTES_MAX and count:
            return count
    return len(sizes)


def _row(completion: Completion) -> dict[str, object]:
    content = orjson.dumps(completion.content)
    names = ("project", "id", "created", "model", "deployment", "finish_reason", "user", "request_id")
    return {name: getattr(completion, name) for name in names} | {
        "metadata": dict(completion.metadata),
        "content": content.decode(),
        "content_bytes": len(content),
        "version": completion.revision,
    }


def _completion(row: Mapping[Any, Any], policy: Policy) -> Completion:
    values = {name: value for name, value in row.items() if name not in {"version", "content", "content_bytes"}}
    content, expires = orjson.loads(row["content"]), policy.expiry(row["created"])
    return Completion(**values, content=content, revision=row["version"], expires=expires)


def _feedback_row(feedback: Feedback) -> dict[str, object]:
    correction = None if feedback.correction is None else orjson.dumps(feedback.correction).decode()
    names = ("project", "completion", "id", "created", "value", "comment", "author")
    return {name: getattr(feedback, name) for name in names} | {
        "labels": dict(feedback.labels),
        "correction": correction,
        "content_bytes": len(correction or "") + len(feedback.comment),
    }


def _feedback(row: Mapping[Any, Any]) -> Feedback:
    values = {name: value for name, value in row.items() if name not in {"correction", "content_bytes"}}
    return Feedback(**values, correction=None if row["correction"] is None else orjson.loads(row["correction"]))
