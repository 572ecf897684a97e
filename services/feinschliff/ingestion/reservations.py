"""A place for a version: reserved while its bytes arrive, then published, given up, or taken from the dead."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from datetime import timedelta

from feinschliff.artifacts.store import Store
from feinschliff.ingestion import store as tables
from feinschliff.ingestion.datasets import Draft, found, new_dataset
from feinschliff.ingestion.header import Header
from feinschliff.ingestion.model import Facts, State, Version, VersionKey
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import Conflict, Invalid, Refusal
from feinschliff.kit.watch import Wake

log = logging.getLogger(__name__)
NOBODY = ""  # renews no lease, so a removal that failed is tried again once its lease is over


class Reservations:
    """Rows in PROCESSING, each with an owner, whose process renews its lease; who comes to a late one removes it.

    Removing means bytes first, then the row: what a crash leaves between the two is found again by the row.
    """

    def __init__(self, database: Database, store: Store, clock: Clock, wake: Wake, *, lease_seconds: float) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._wake = wake
        self._lease = timedelta(seconds=lease_seconds)
        self._lock = threading.Lock()
        self._alive: set[VersionKey] = set()

    def reserve(self, header: Header) -> Version:
        """A new version that is ours, in PROCESSING; or the one, READY, that this request made before.

        Raises:
            NotFound: DATASET_NOT_FOUND.
            Invalid: REQUEST_ID_REUSED with another header.
            Conflict: UPLOAD_RUNNING, the same request is being served; DATASET_BEING_REMOVED.
        """
        while True:
            with self._database.transaction() as session:
                made_dataset = self._lock_dataset(session, header)
                earlier = self._earlier(session, header)
                version = earlier or self._insert(session, header, made_dataset)
            if earlier is None:
                with self._lock:
                    self._alive.add(version.key)
                return version
            if earlier.state is State.READY:
                return earlier
            self._remove(earlier)

    def progress(self, version: Version, received_bytes: int) -> Version:
        """Notes how far the upload is; raises Conflict UPLOAD_LOST where the version is no longer ours."""
        lease_until = self._clock.now() + self._lease
        return self._write(replace(version, received_bytes=received_bytes, lease_until=lease_until), version.owner)

    def publish(self, version: Version, facts: Facts, sha256: str) -> Version:
        """Makes the version READY; raises Conflict UPLOAD_LOST where it is no longer ours."""
        published = replace(
            version,
            state=State.READY,
            received_bytes=facts.source.size_bytes,
            facts=facts,
            sha256=sha256,
            ready=self._clock.now(),
        )
        written = self._write(published, version.owner)
        self._forget(version)
        return written

    def give_up(self, version: Version) -> None:
        """Removes what is ours of the version; what cannot be removed now is left to `sweep`."""
        self._forget(version)
        try:
            with self._database.reading() as session:
                there = tables.read_version(session, version.project, version.dataset, version.number)
            if there is not None and there.owner == version.owner and there.state is State.PROCESSING:
                self._remove(there)
        except Refusal as refusal:
            log.warning("an ended upload is removed later", extra={"version": version.name, "why": str(refusal)})

    def renew(self) -> None:
        """Gives the reservations of our running uploads a fresh lease."""
        with self._lock:
            alive = sorted(self._alive)
        if alive:
            with self._database.transaction() as session:
                tables.renew_leases(session, alive, self._clock.now() + self._lease)

    def sweep(self) -> None:
        """Removes reservations whose owner is gone; one that fails does not stop the others."""
        with self._database.reading() as session:
            late = tables.abandoned_versions(session, self._clock.now())
        with self._lock:
            dead = [version for version in late if version.key not in self._alive]
        for version in dead:
            try:
                self._remove(version)
                log.info("removed an abandoned upload", extra={"version": version.name})
            except Refusal as refusal:
                log.warning("an abandoned upload stays", extra={"version": version.name, "why": str(refusal)})

    def _forget(self, version: Version) -> None:
        with self._lock:
            self._alive.discard(version.key)

    def _remove(self, version: Version) -> None:
        taken_over = replace(version, owner=NOBODY, lease_until=self._clock.now() + self._lease)
        doomed = self._write(taken_over, version.owner)
        self._store.delete_prefix(doomed.prefix)
        with self._database.transaction() as session:
            tables.delete_version(session, doomed)
        self._wake.notify()

    def _write(self, version: Version, owner: str) -> Version:
        try:
            with self._database.transaction() as session:
                written = tables.write_version(session, version, owner)
                if written.state is State.READY:
                    tables.touch_dataset(session, version.project, version.dataset, self._clock.now())
        except Conflict as conflict:
            if conflict.reason != "ROW_CHANGED":
                raise
            raise Conflict(
                "UPLOAD_LOST",
                f"The upload of {version.name} was taken for dead and removed; upload again.",
                version=version.name,
            ) from conflict
        self._wake.notify()
        return written

    def _lock_dataset(self, session: Session, header: Header) -> bool:
        """Makes other writers of the dataset wait for this transaction; says whether it had to be made."""
        if header.parent in tables.removals(session):
            raise Conflict(
                "DATASET_BEING_REMOVED",
                f"The bytes of an earlier {header.parent} are still being removed; try again shortly.",
                retry_after_seconds=1,
                dataset=header.parent,
            )
        made = header.create_dataset_if_missing and tables.insert_dataset(
            session, new_dataset(header.project, header.dataset, Draft(), self._clock)
        )
        found(session, header.project, header.dataset, for_update=True)
        return made

    def _earlier(self, session: Session, header: Header) -> Version | None:
        """What this request has made before and is not to be made again, or is dead and to be removed."""
        if not header.request_id:
            return None
        earlier = tables.version_of_request(session, header.project, header.dataset, header.request_id)
        if earlier is None:
            return None
        if earlier.header_digest != header.digest:
            raise request_id_reused(header.request_id)
        if earlier.state is State.PROCESSING and earlier.lease_until > self._clock.now():
            raise Conflict(
                "UPLOAD_RUNNING",
                f"The same request is being served as {earlier.name}.",
                retry_after_seconds=2,
                version=earlier.name,
            )
        return earlier

    def _insert(self, session: Session, header: Header, made_dataset: bool) -> Version:
        now = self._clock.now()
        version = Version(
            project=header.project,
            dataset=header.dataset,
            number=tables.next_number(session, header.project, header.dataset),
            state=State.PROCESSING,
            created=now,
            lease_until=now + self._lease,
            owner=names.new_id(),
            split=header.wanted.split,
            filename=header.filename,
            labels=header.labels,
            annotations=header.annotations,
            request_id=header.request_id,
            header_digest=header.digest,
            made_dataset=made_dataset,
            expected_bytes=header.wanted.size_bytes or 0,
        )
        tables.insert_version(session, version)
        return version


def request_id_reused(request_id: str) -> Invalid:
    return Invalid(
        "REQUEST_ID_REUSED",
        f"Request id {request_id!r} was used with another header or other bytes; take a new id for a new upload.",
        request_id=request_id,
    )
