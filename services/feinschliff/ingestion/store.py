"""The tables of ingestion: datasets, versions, and bytes that are still to be removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    Select,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)

from feinschliff.ingestion.listing import TIMES, Asked, Listing
from feinschliff.ingestion.model import Dataset, Facts, State, Version, VersionKey
from feinschliff.ingestion.readers import READERS
from feinschliff.ingestion.split import Split
from feinschliff.kit.db import Json, Session, UtcDateTime, insert_ignore, metadata_for, select_one, update_versioned
from feinschliff.kit.idempotency import Ledger

METADATA = metadata_for("ingestion")
LEDGER = Ledger(METADATA, "ingestion")

DATASETS = Table(
    "ingestion_datasets",
    METADATA,
    Column("project", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("display_name", String(256), nullable=False),
    Column("description", String(4096), nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)

VERSIONS = Table(
    "ingestion_versions",
    METADATA,
    Column("project", String(64), primary_key=True),
    Column("dataset", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(20), nullable=False, index=True),
    Column("owner", String(64), nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("filename", String(255), nullable=False),
    Column("split", Json, nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("header_digest", String(64), nullable=False),
    Column("made_dataset", Boolean, nullable=False),
    Column("received_bytes", BigInteger, nullable=False),
    Column("expected_bytes", BigInteger, nullable=False),
    Column("format", String(40), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("facts", JSON(none_as_null=True)),
    Column("created", UtcDateTime, nullable=False),
    Column("ready", UtcDateTime),
    Column("version", Integer, nullable=False),
    ForeignKeyConstraint(["project", "dataset"], [DATASETS.c.project, DATASETS.c.id]),
    Index("ix_ingestion_versions_request", "project", "dataset", "request_id"),
)

REMOVALS = Table(
    "ingestion_removals",
    METADATA,
    Column("prefix", String(400), primary_key=True),
    Column("created", UtcDateTime, nullable=False),
)

DATASET_LISTING = Listing(
    filters={
        "create_time": DATASETS.c.created,
        "display_name": DATASETS.c.display_name,
        "labels": DATASETS.c.labels,
    },
    orders={"create_time": DATASETS.c.created, "display_name": DATASETS.c.display_name},
    key=(DATASETS.c.id,),
    readers=TIMES,
)
VERSION_LISTING = Listing(
    filters={
        "create_time": VERSIONS.c.created,
        "state": VERSIONS.c.state,
        "format": VERSIONS.c.format,
        "sha256": VERSIONS.c.sha256,
        "labels": VERSIONS.c.labels,
    },
    orders={"create_time": VERSIONS.c.created},
    key=(VERSIONS.c.dataset, VERSIONS.c.number),
    readers={
        **TIMES,
        "state": lambda text: State(text.removeprefix("STATE_")).value,
        "format": lambda text: text.removeprefix("ROW_FORMAT_").lower(),
    },
)
T = TypeVar("T")


class PageOf(NamedTuple, Generic[T]):
    """Some of a list, the token for what follows, and how many there are on all pages together."""

    items: list[T]
    next_token: str
    total: int


def insert_dataset(session: Session, dataset: Dataset) -> bool:
    """False where its name is taken."""
    return insert_ignore(session, DATASETS, [_dataset_row(dataset)]) == 1


def read_dataset(session: Session, project: str, dataset: str, *, for_update: bool = False) -> Dataset | None:
    """`for_update` makes other writers of the dataset and its versions wait until the transaction ends."""
    statement = select(DATASETS).where(DATASETS.c.project == project, DATASETS.c.id == dataset)
    row = session.execute(statement.with_for_update() if for_update else statement).mappings().one_or_none()
    return None if row is None else _with_versions(session, [row])[0]


def list_datasets(session: Session, project: str, asked: Asked) -> PageOf[Dataset]:
    rows, token, total = _page(session, DATASETS, DATASET_LISTING, asked, DATASETS.c.project == project)
    return PageOf(_with_versions(session, rows), token, total)


def write_dataset(session: Session, dataset: Dataset) -> Dataset:
    """Raises Conflict ROW_CHANGED unless the row still has the dataset's revision."""
    values = {key: value for key, value in _dataset_row(dataset).items() if key not in {"project", "id", "version"}}
    key = {"project": dataset.project, "id": dataset.id}
    update_versioned(session, DATASETS, key, dataset.revision, values)
    return replace(dataset, revision=dataset.revision + 1)


def delete_dataset(session: Session, dataset: Dataset) -> None:
    """The dataset with the rows of all its versions."""
    session.execute(delete(VERSIONS).where(_of(dataset.project, dataset.id)))
    session.execute(delete(DATASETS).where(DATASETS.c.project == dataset.project, DATASETS.c.id == dataset.id))


def next_number(session: Session, project: str, dataset: str) -> int:
    highest = session.execute(select(func.max(VERSIONS.c.number)).where(_of(project, dataset))).scalar()
    return (highest or 0) + 1


def insert_version(session: Session, version: Version) -> None:
    session.execute(insert(VERSIONS).values(**_version_row(version)))


def read_version(session: Session, project: str, dataset: str, number: int) -> Version | None:
    row = select_one(session, VERSIONS, project=project, dataset=dataset, number=number)
    return None if row is None else _version(row)


def versions_of(session: Session, project: str, dataset: str) -> list[Version]:
    return [_version(row) for row in session.execute(select(VERSIONS).where(_of(project, dataset))).mappings()]


def version_of_request(session: Session, project: str, dataset: str, request_id: str) -> Version | None:
    """The newest version that this request made or is making."""
    same = _of(project, dataset) & (VERSIONS.c.request_id == request_id)
    row = session.execute(_newest(select(VERSIONS).where(same))).mappings().first()
    return None if row is None else _version(row)


def list_versions(session: Session, project: str, dataset: str, asked: Asked) -> PageOf[Version]:
    """The dataset `-` means all of the project."""
    within = VERSIONS.c.project == project if dataset == "-" else _of(project, dataset)
    rows, token, total = _page(session, VERSIONS, VERSION_LISTING, asked, within)
    return PageOf([_version(row) for row in rows], token, total)


def write_version(session: Session, version: Version, owner: str) -> Version:
    """Raises Conflict ROW_CHANGED unless the row still belongs to `owner` and has the version's revision."""
    key = {"project": version.project, "dataset": version.dataset, "number": version.number}
    values = {name: value for name, value in _version_row(version).items() if name not in {*key, "version"}}
    key["owner"] = owner
    update_versioned(session, VERSIONS, key, version.revision, values)
    return replace(version, revision=version.revision + 1)


def delete_version(session: Session, version: Version) -> None:
    """The version's row, and its dataset where the upload made it and nothing else came of it."""
    same = _of(version.project, version.dataset) & (VERSIONS.c.number == version.number)
    session.execute(delete(VERSIONS).where(same))
    others = session.execute(select(func.count()).where(_of(version.project, version.dataset))).scalar()
    if version.made_dataset and not others:
        untouched = DATASETS.c.version == 1
        same_dataset = (DATASETS.c.project == version.project) & (DATASETS.c.id == version.dataset)
        session.execute(delete(DATASETS).where(same_dataset, untouched))


def abandoned_versions(session: Session, now: datetime) -> list[Version]:
    """Versions whose uploader gave no sign of life in its lease."""
    late = (VERSIONS.c.state == State.PROCESSING) & (VERSIONS.c.lease_until < now)
    return [_version(row) for row in session.execute(select(VERSIONS).where(late)).mappings()]


def count_by_state(session: Session) -> dict[str, int]:
    statement = select(VERSIONS.c.state, func.count()).group_by(VERSIONS.c.state)
    return {row.state: row[1] for row in session.execute(statement)}


def insert_removal(session: Session, prefix: str, now: datetime) -> None:
    insert_ignore(session, REMOVALS, [{"prefix": prefix, "created": now}])


def removals(session: Session) -> list[str]:
    """Prefixes whose objects are still to be removed, the oldest first."""
    return list(session.execute(select(REMOVALS.c.prefix).order_by(REMOVALS.c.created)).scalars())


def delete_removal(session: Session, prefix: str) -> None:
    session.execute(delete(REMOVALS).where(REMOVALS.c.prefix == prefix))


def touch_dataset(session: Session, project: str, dataset: str, now: datetime) -> None:
    """A new version is no write to the dataset itself: only its time changes, not its etag."""
    same = (DATASETS.c.project == project) & (DATASETS.c.id == dataset)
    session.execute(update(DATASETS).where(same).values(updated=now))


def renew_leases(session: Session, keys: Sequence[VersionKey], lease_until: datetime) -> None:
    """A sign of life for running uploads; no change of the versions themselves."""
    for project, dataset, number, owner in keys:
        same = _of(project, dataset) & (VERSIONS.c.number == number)
        mine = same & (VERSIONS.c.owner == owner) & (VERSIONS.c.state == State.PROCESSING)
        session.execute(update(VERSIONS).where(mine).values(lease_until=lease_until))


def _page(
    session: Session, table: Table, listing: Listing, asked: Asked, within: Any
) -> tuple[list[Mapping[Any, Any]], str, int]:
    matching = [within, *asked.matching]
    total = session.execute(select(func.count()).select_from(table).where(*matching)).scalar_one()
    statement = select(table).where(*matching, *listing.following(asked)).order_by(*listing.ordering(asked))
    rows = list(session.execute(statement.limit(asked.page.size + 1)).mappings())
    shown = rows[: asked.page.size]
    return list(shown), listing.token(asked, shown[-1]) if len(rows) > len(shown) else "", total


def _of(project: str, dataset: str) -> Any:
    return (VERSIONS.c.project == project) & (VERSIONS.c.dataset == dataset)


def _newest(statement: Select[Any]) -> Select[Any]:
    return statement.order_by(VERSIONS.c.number.desc()).limit(1)


def _dataset_row(dataset: Dataset) -> dict[str, object]:
    row = {name: getattr(dataset, name) for name in DATASETS.c.keys() if name != "version"}  # noqa: SIM118
    return row | {"labels": dict(dataset.labels), "annotations": dict(dataset.annotations), "version": dataset.revision}


def _with_versions(session: Session, rows: Sequence[Mapping[Any, Any]]) -> list[Dataset]:
    """The datasets of these rows, with how many READY versions each has and which is the newest."""
    keys = [row["id"] for row in rows]
    project = rows[0]["project"] if rows else ""
    statement = (
        select(VERSIONS.c.dataset, func.max(VERSIONS.c.number), func.count())
        .where(VERSIONS.c.project == project, VERSIONS.c.dataset.in_(keys), VERSIONS.c.state == State.READY)
        .group_by(VERSIONS.c.dataset)
    )
    known = {dataset: (latest, count) for dataset, latest, count in session.execute(statement)}
    datasets = []
    for row in rows:
        values = {name: value for name, value in row.items() if name != "version"}
        latest, count = known.get(row["id"], (0, 0))
        datasets.append(Dataset(**values, revision=row["version"], latest=latest, versions=count))
    return datasets


def _version_row(version: Version) -> dict[str, object]:
    row = {item.name: getattr(version, item.name) for item in fields(version) if item.name != "revision"}
    return row | {
        "state": version.state.value,
        "split": asdict(version.split),
        "labels": dict(version.labels),
        "annotations": dict(version.annotations),
        "format": READERS[version.facts.format].family if version.facts else "",
        "facts": version.facts.model_dump(mode="json") if version.facts else None,
        "version": version.revision,
    }


def _version(row: Mapping[Any, Any]) -> Version:
    values = {name: value for name, value in row.items() if name not in {"version", "format"}}
    facts = row["facts"]
    return Version(
        **values
        | {
            "state": State(row["state"]),
            "split": Split(**row["split"]),
            "facts": Facts.model_validate(facts) if facts is not None else None,
            "revision": row["version"],
        }
    )
