"""Datasets: made, read, renamed and removed with everything in them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from feinschliff.artifacts.store import Store
from feinschliff.ingestion import store as tables
from feinschliff.ingestion.listing import Wish
from feinschliff.ingestion.model import DATASET, Dataset, State
from feinschliff.ingestion.texts import check_pairs, check_text
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import AlreadyExists, Conflict, NotFound, Refusal, WrongState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draft:
    """What people decide about a dataset."""

    display_name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        check_text("display_name", self.display_name, 256)
        check_text("description", self.description, 4096)
        check_pairs(self.labels, self.annotations)


class Datasets:
    """The rules of datasets; each method is one short transaction."""

    def __init__(self, database: Database, store: Store, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._clock = clock

    def create(self, project: str, dataset: str, draft: Draft, *, request_id: str, body_digest: str) -> Dataset:
        """A new dataset; the same request again gives the same one.

        Raises:
            AlreadyExists: DATASET_EXISTS.
            Invalid: NAME_MALFORMED, LABELS_INVALID, TEXT_TOO_LONG, REQUEST_ID_REUSED.
        """
        draft.check()
        wanted = names.check_id(dataset, field="dataset_id") if dataset else names.new_id("ds-")
        with self._database.transaction() as session:
            made = tables.LEDGER.once(
                session,
                f"CreateDataset projects/{project}",
                request_id,
                body_digest,
                lambda: self._make(session, project, wanted, draft),
            )
            return found(session, project, made)

    def get(self, project: str, dataset: str) -> Dataset:
        with self._database.reading() as session:
            return found(session, project, dataset)

    def list(self, project: str, wish: Wish) -> tables.PageOf[Dataset]:
        asked = tables.DATASET_LISTING.ask(wish, f"projects/{project}/datasets")
        with self._database.reading() as session:
            return tables.list_datasets(session, project, asked)

    def update(self, read: Dataset, draft: Draft, *, etag: str) -> Dataset:
        """Writes the draft over the dataset as it was read.

        Raises:
            Conflict: ETAG_MISMATCH where the caller read another state, ROW_CHANGED where someone wrote meanwhile.
        """
        draft.check()
        _check_etag(read, etag)
        changed = replace(
            read,
            display_name=draft.display_name or read.id,
            description=draft.description,
            labels=draft.labels,
            annotations=draft.annotations,
            updated=self._clock.now(),
        )
        with self._database.transaction() as session:
            return tables.write_dataset(session, changed)

    def delete(self, project: str, dataset: str, *, etag: str = "") -> None:
        """Removes the dataset at once and its bytes right after; what a crash leaves of them goes at the next start.

        Raises:
            NotFound: DATASET_NOT_FOUND.
            Conflict: ETAG_MISMATCH.
            WrongState: DATASET_BUSY while an upload into it runs.
        """
        with self._database.transaction() as session:
            there = found(session, project, dataset, for_update=True)
            _check_etag(there, etag)
            if any(version.state is State.PROCESSING for version in tables.versions_of(session, project, dataset)):
                raise WrongState(
                    "DATASET_BUSY",
                    f"An upload into {there.name} is running.",
                    advice=["Wait for the upload or end it, then delete again."],
                    dataset=there.name,
                )
            tables.delete_dataset(session, there)
            tables.insert_removal(session, there.name, self._clock.now())
        try:
            self.finish_removal(there.name)
        except Refusal as refusal:
            log.warning("the bytes of a removed dataset go later", extra={"dataset": there.name, "why": str(refusal)})

    def finish_removals(self) -> None:
        """Removes the bytes of datasets whose removal was cut short."""
        with self._database.reading() as session:
            prefixes = tables.removals(session)
        for prefix in prefixes:
            self.finish_removal(prefix)

    def finish_removal(self, prefix: str) -> None:
        self._store.delete_prefix(prefix)
        with self._database.transaction() as session:
            tables.delete_removal(session, prefix)

    def _make(self, session: Session, project: str, dataset: str, draft: Draft) -> str:
        if not tables.insert_dataset(session, new_dataset(project, dataset, draft, self._clock)):
            name = DATASET.format(project=project, dataset=dataset)
            raise AlreadyExists(
                "DATASET_EXISTS",
                f"There is a dataset {name} already.",
                advice=["Take another id, or upload a new version into it."],
                dataset=name,
            )
        return dataset


def new_dataset(project: str, dataset: str, draft: Draft, clock: Clock) -> Dataset:
    now = clock.now()
    return Dataset(
        project=project,
        id=dataset,
        created=now,
        updated=now,
        display_name=draft.display_name or dataset,
        description=draft.description,
        labels=draft.labels,
        annotations=draft.annotations,
    )


def found(session: Session, project: str, dataset: str, *, for_update: bool = False) -> Dataset:
    """Raises NotFound DATASET_NOT_FOUND."""
    there = tables.read_dataset(session, project, dataset, for_update=for_update)
    if there is None:
        name = DATASET.format(project=project, dataset=dataset)
        raise NotFound("DATASET_NOT_FOUND", f"There is no dataset {name}.", dataset=name)
    return there


def _check_etag(dataset: Dataset, etag: str) -> None:
    if etag and etag != dataset.etag:
        raise Conflict(
            "ETAG_MISMATCH",
            f"{dataset.name} changed since it was read; read it again.",
            dataset=dataset.name,
            etag=dataset.etag,
            sent=etag,
        )
