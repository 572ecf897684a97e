"""The tables of the registry: models, versions, aliases and their moves, exports, and what was made from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Boolean, Column, ForeignKey, Integer, String, Table, func, literal, or_, select, tuple_

from feinschliff.kit.db import Json, Session, UtcDateTime, insert_ignore, metadata_for, select_one, update_versioned
from feinschliff.kit.idempotency import Ledger
from feinschliff.kit.paging import Page

METADATA = metadata_for("registry")
LEDGER = Ledger(METADATA, "registry")

MODELS = Table(
    "registry_models",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("parent", String(100), nullable=False, index=True),
    Column("display_name", String(256), nullable=False),
    Column("description", String, nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("protected_aliases", Json, nullable=False),
    Column("alias_gates", Json, nullable=False),
    Column("versions_made", Integer, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)

VERSIONS = Table(
    "registry_versions",
    METADATA,
    Column("name", String(220), primary_key=True),
    Column("model", String(200), ForeignKey(MODELS.c.name), nullable=False, index=True),
    Column("project", String(100), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("base_model", String(400), nullable=False),
    Column("base_digest", String(80), nullable=False),
    Column("adapter_uri", String(600), nullable=False),
    Column("adapter_digest", String(80), nullable=False),
    Column("training_job", String(200), nullable=False, index=True),
    Column("parent_version", String(220), nullable=False),
    Column("public_name", String(256), nullable=False, index=True),
    Column("deprecation_reason", String, nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("datasets", Json, nullable=False),
    Column("record", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)

ALIASES = Table(
    "registry_aliases",
    METADATA,
    Column("name", String(220), primary_key=True),
    Column("model", String(200), ForeignKey(MODELS.c.name), nullable=False, index=True),
    Column("model_version", String(220), nullable=False, index=True),
    Column("reason", String, nullable=False),
    Column("verdict", String(220), nullable=False),
    Column("moves", Integer, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)

MOVES = Table(
    "registry_alias_moves",
    METADATA,
    Column("alias", String(220), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("previous", String(220), nullable=False),
    Column("current", String(220), nullable=False),
    Column("reason", String, nullable=False),
    Column("verdict", String(220), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("rollback", Boolean, nullable=False),
    Column("time", UtcDateTime, nullable=False),
)

EXPORTS = Table(
    "registry_exports",
    METADATA,
    Column("name", String(260), primary_key=True),
    Column("model", String(200), nullable=False, index=True),
    Column("project", String(100), nullable=False, index=True),
    Column("state", String(20), nullable=False, index=True),
    Column("wish", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("artifact_uri", String(600), nullable=False),
    Column("artifact_sha256", String(64), nullable=False),
    Column("files", Json, nullable=False),
    Column("result_version", String(220), nullable=False),
    Column("failure", Json, nullable=False),
    Column("finished", UtcDateTime),
    Column("workers_lost", Integer, nullable=False),
    Column("version", Integer, nullable=False),
)

EDGES = Table(
    "registry_edges",
    METADATA,
    Column("source", String(400), primary_key=True),
    Column("target", String(400), primary_key=True, index=True),
    Column("relation", String(40), primary_key=True),
    Column("digest", String(80), nullable=False),
)


@dataclass(frozen=True)
class Model:
    name: str
    parent: str
    created: datetime
    updated: datetime
    display_name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    protected_aliases: Sequence[str] = ()
    alias_gates: Mapping[str, str] = field(default_factory=dict)
    versions_made: int = 0
    version: int = 1


@dataclass(frozen=True)
class Version:
    """One model version; `record` is all of it as it was registered, in the contract's JSON form."""

    name: str
    model: str
    project: str
    number: int
    state: str
    kind: str
    base_model: str
    base_digest: str
    adapter_uri: str
    adapter_digest: str
    training_job: str
    parent_version: str
    public_name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    datasets: Sequence[Mapping[str, str]]
    record: Mapping[str, Any]
    created: datetime
    deprecation_reason: str = ""
    version: int = 1


@dataclass(frozen=True)
class Alias:
    name: str
    model: str
    model_version: str
    reason: str
    verdict: str
    created: datetime
    updated: datetime
    moves: int = 0
    version: int = 1


@dataclass(frozen=True)
class AliasMove:
    alias: str
    sequence: int
    previous: str
    current: str
    reason: str
    verdict: str
    actor: str
    rollback: bool
    time: datetime


@dataclass(frozen=True)
class Edge:
    """`target` came out of `source`, or points to it; `digest` is the source's content where it has one."""

    source: str
    target: str
    relation: str
    digest: str = ""


@dataclass(frozen=True)
class Export:
    """A model being written in another form; `wish` is how, `files` what came of it, by name.

    Args:
        workers_lost: how often who worked at it fell silent.
    """

    name: str
    model: str
    project: str
    state: str
    wish: Mapping[str, Any]
    created: datetime
    lease_until: datetime
    done: int = 0
    total: int = 0
    artifact_uri: str = ""
    artifact_sha256: str = ""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    result_version: str = ""
    failure: Mapping[str, Any] = field(default_factory=dict)
    finished: datetime | None = None
    workers_lost: int = 0
    version: int = 1


Row = TypeVar("Row", Model, Version, Alias, AliasMove, Edge, Export)
Saved = TypeVar("Saved", Model, Version, Alias, Export)
TABLES: Mapping[type, Table] = {
    Model: MODELS,
    Version: VERSIONS,
    Alias: ALIASES,
    AliasMove: MOVES,
    Edge: EDGES,
    Export: EXPORTS,
}


def insert(session: Session, row: Model | Version | Alias | AliasMove | Export) -> None:
    session.execute(TABLES[type(row)].insert().values(**_columns(row)))


def find(session: Session, kind: type[Row], name: str) -> Row | None:
    row = select_one(session, TABLES[kind], name=name)
    return None if row is None else kind(**row)


def save(session: Session, before: Saved, **changes: Any) -> Saved:
    """Writes the changed fields to the row as it was read; Conflict ROW_CHANGED where someone wrote first."""
    table = TABLES[type(before)]
    after = replace(before, **changes, version=before.version + 1)
    columns = _columns(after)
    update_versioned(session, table, {"name": columns["name"]}, before.version, {key: columns[key] for key in changes})
    return after


def delete(session: Session, row: Model | Version | Alias) -> None:
    table = TABLES[type(row)]
    session.execute(table.delete().where(table.c.name == row.name))


def page_of(
    session: Session, kind: type[Row], page: Page, where: Sequence[Any], *, by: str, descending: bool
) -> list[Row]:
    """Rows in the order of (`by`, name), one more than the page so that the caller knows whether there is another."""
    table = TABLES[kind]
    sort, name = table.c[by], table.c["name" if "name" in table.c else by]
    conditions = list(where)
    if page.after is not None:
        value: object = datetime.fromisoformat(str(page.after[0])) if by == "created" else page.after[0]
        after = tuple_(literal(value, sort.type), literal(page.after[1], name.type))
        key = tuple_(sort, name)
        conditions.append(key < after if descending else key > after)
    order = [column.desc() if descending else column.asc() for column in (sort, name)]
    query = select(table).where(*conditions).order_by(*order).limit(page.size + 1)
    return [kind(**row) for row in session.execute(query).mappings()]


def versions_of(session: Session, model: str) -> int:
    return session.scalar(select(func.count()).where(VERSIONS.c.model == model)) or 0


def latest_version(session: Session, model: str) -> str:
    query = select(VERSIONS.c.name).where(VERSIONS.c.model == model).order_by(VERSIONS.c.number.desc()).limit(1)
    return session.scalar(query) or ""


def aliases_of(session: Session, version: str) -> list[str]:
    query = select(ALIASES.c.name).where(ALIASES.c.model_version == version).order_by(ALIASES.c.name)
    return [name.rsplit("/", 1)[1] for name in session.scalars(query)]


def last_move(session: Session, alias: str) -> AliasMove | None:
    query = select(MOVES).where(MOVES.c.alias == alias).order_by(MOVES.c.sequence.desc()).limit(1)
    row = session.execute(query).mappings().one_or_none()
    return None if row is None else AliasMove(**row)


def verdict_for(session: Session, alias: str, model_version: str) -> str:
    """The verdict by which the alias last pointed to the version; empty: none."""
    mine = (MOVES.c.alias == alias) & (MOVES.c.current == model_version) & (MOVES.c.verdict != "")
    query = select(MOVES.c.verdict).where(mine).order_by(MOVES.c.sequence.desc()).limit(1)
    return session.scalar(query) or ""


def put_edges(session: Session, edges: Sequence[Edge]) -> None:
    insert_ignore(session, EDGES, [_columns(edge) for edge in edges])


def delete_edges(session: Session, target: str, relation: str) -> None:
    session.execute(EDGES.delete().where(EDGES.c.target == target, EDGES.c.relation == relation))


def edges_at(session: Session, names: Sequence[str], *, up: bool, down: bool) -> list[Edge]:
    """Edges that lead into the names (`up`) and out of them (`down`)."""
    wanted = [EDGES.c.target.in_(names)] * up + [EDGES.c.source.in_(names)] * down
    return [Edge(**row) for row in session.execute(select(EDGES).where(or_(*wanted))).mappings()]


def find_versions(session: Session, names: Sequence[str]) -> dict[str, Version]:
    query = select(VERSIONS).where(VERSIONS.c.name.in_(names))
    return {row["name"]: Version(**row) for row in session.execute(query).mappings()}


def public_name_taken(session: Session, project: str, public_name: str) -> bool:
    query = select(VERSIONS.c.name).where(VERSIONS.c.project == project, VERSIONS.c.public_name == public_name)
    return session.scalar(query.limit(1)) is not None


def count_versions(session: Session) -> dict[str, int]:
    query = select(VERSIONS.c.state, func.count()).group_by(VERSIONS.c.state)
    return dict(session.execute(query).all())


def count_models(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(MODELS)) or 0


def exports_due(session: Session, states: Sequence[str], now: datetime) -> list[str]:
    """Names of exports in these states that nobody works at, oldest first."""
    due = select(EXPORTS.c.name).where(EXPORTS.c.state.in_(states), EXPORTS.c.lease_until <= now)
    return list(session.scalars(due.order_by(EXPORTS.c.created, EXPORTS.c.name)))


def _columns(row: Model | Version | Alias | AliasMove | Edge | Export) -> dict[str, object]:
    return {column.name: _plain(getattr(row, column.name)) for column in fields(row)}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple | list) else value
