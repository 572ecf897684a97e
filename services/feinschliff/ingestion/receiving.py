"""The three kinds of uploads: one that is stored, one that is only tried, one that was stored before."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.store import Store, Stored
from feinschliff.formats.manifest import FileEntry
from feinschliff.ingestion.counting import Counting
from feinschliff.ingestion.header import Header
from feinschliff.ingestion.intake import Intake, Limits, Summary
from feinschliff.ingestion.model import SOURCE, Facts, Version, file_of
from feinschliff.ingestion.outputs import Nowhere, StoreOutputs
from feinschliff.ingestion.reservations import Reservations, request_id_reused
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import Conflict, Invalid
from feinschliff.kit.failpoints import fail

MANIFEST_KIND = "dataset"
_PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Verdict:
    """What a trial found: everything known of the file, and why it would be refused, if it would."""

    summary: Summary
    refusal: Invalid | None
    tokenizer: str


class Upload(Protocol):
    """Takes a file; `feed` and `finish` raise a refusal, after which only `abandon` makes sense.

    Calls may come from different threads, also at once: a caller who leaves abandons while a chunk is being taken.
    """

    def feed(self, chunk: bytes) -> None: ...

    def finish(self) -> Version | Verdict: ...

    def abandon(self) -> None:
        """Removes everything, unless the upload has finished; safe to repeat."""
        ...


class Receiving:
    """Stores as it checks; the version is real once its manifest and then its row say so."""

    def __init__(
        self,
        version: Version,
        header: Header,
        limits: Limits,
        counting: Counting | None,
        store: Store,
        reservations: Reservations,
        clock: Clock,
    ) -> None:
        self._lock = threading.Lock()
        self._version = version
        self._store = store
        self._reservations = reservations
        self._clock = clock
        self._tokenizer = counting.base if counting else ""
        self._outputs = StoreOutputs(store, version.prefix)
        self._intake = Intake(header.wanted, limits, self._outputs, counting.counter if counting else None)
        self._noted_seconds = clock.monotonic()
        self._is_open = True
        fail("upload.before_store")

    def feed(self, chunk: bytes) -> None:
        with self._lock:
            self._require_open()
            self._intake.feed(chunk)
            now_seconds = self._clock.monotonic()
            if now_seconds - self._noted_seconds >= _PROGRESS_SECONDS:
                self._noted_seconds = now_seconds
                self._version = self._reservations.progress(self._version, self._intake.source_bytes)

    def finish(self) -> Version:
        with self._lock:
            self._require_open()
            summary = self._intake.finish()
            self._version = self._reservations.progress(self._version, summary.source_bytes)
            stored = self._outputs.close()
            splits = {name: stored[file_of(name)] for name in summary.rows_by_split if file_of(name) in stored}
            manifest = commit(
                self._store,
                self._version.prefix,
                {file_of(name): file for name, file in splits.items()},
                {
                    "dataset_version": self._version.name,
                    "format": summary.format,
                    "source_sha256": summary.source_sha256,
                },
                kind=MANIFEST_KIND,
            )
            fail("upload.before_commit")
            facts = _facts(summary, stored[SOURCE], splits, self._tokenizer)
            self._version = self._reservations.publish(self._version, facts, manifest.digest.removeprefix("sha256:"))
            self._is_open = False
            fail("upload.after_commit")
            return self._version

    def abandon(self) -> None:
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._outputs.abandon()
                self._reservations.give_up(self._version)

    def _require_open(self) -> None:
        if not self._is_open:
            raise Conflict("UPLOAD_ENDED", "The upload has ended.", version=self._version.name)


class Trial:
    """Checks and counts, and stores nothing; what a real upload is refused for is part of the verdict."""

    def __init__(self, header: Header, limits: Limits, counting: Counting | None) -> None:
        self._intake = Intake(header.wanted, limits, Nowhere(), counting.counter if counting else None)
        self._tokenizer = counting.base if counting else ""
        self._refusal: Invalid | None = None

    def feed(self, chunk: bytes) -> None:
        if self._refusal is None:
            try:
                self._intake.feed(chunk)
            except Invalid as refusal:
                self._refusal = refusal

    def finish(self) -> Verdict:
        if self._refusal is None:
            try:
                self._intake.finish()
            except Invalid as refusal:
                self._refusal = refusal
        return Verdict(self._intake.summary(), self._refusal, self._tokenizer)

    def abandon(self) -> None:
        pass


class Replay:
    """Reads the bytes of a request that was served before; equal bytes give the version that they made."""

    def __init__(self, version: Version) -> None:
        self._version = version
        self._hash = hashlib.sha256()

    def feed(self, chunk: bytes) -> None:
        self._hash.update(chunk)

    def finish(self) -> Version:
        facts = self._version.facts
        if facts is None or facts.source.sha256 != self._hash.hexdigest():
            raise request_id_reused(self._version.request_id)
        return self._version

    def abandon(self) -> None:
        pass


def _facts(summary: Summary, source: Stored, splits: Mapping[str, Stored], tokenizer: str) -> Facts:
    tokens = summary.tokens
    return Facts(
        format=summary.format,
        source=_entry(source),
        splits={name: _entry(file) for name, file in splits.items()},
        rows_by_split=dict(summary.rows_by_split),
        rows_skipped=summary.bad_rows,
        tokens=tokens.total if tokens else 0,
        tokens_estimated=tokens.estimated if tokens else False,
        tokenizer=tokenizer,
        findings=summary.findings,
    )


def _entry(file: Stored) -> FileEntry:
    return FileEntry(sha256=file.sha256, size_bytes=file.size_bytes)
