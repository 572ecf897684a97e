"""Uploads from beginning to end: how many at once, which kind, what is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from feinschliff.artifacts.store import Store
from feinschliff.ingestion import refusals
from feinschliff.ingestion.counting import Tokenizers
from feinschliff.ingestion.datasets import found
from feinschliff.ingestion.header import Header
from feinschliff.ingestion.intake import Limits
from feinschliff.ingestion.model import Facts, State, Version
from feinschliff.ingestion.receiving import Receiving, Replay, Trial, Upload, Verdict
from feinschliff.ingestion.reservations import Reservations
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Exhausted, Invalid
from feinschliff.kit.metrics import Metrics

CHUNK_BYTES_MAX = 1024 * 1024


class Uploads:
    """Opens uploads, `uploads_max` at a time."""

    def __init__(
        self,
        database: Database,
        store: Store,
        reservations: Reservations,
        tokenizers: Tokenizers,
        limits: Limits,
        clock: Clock,
        metrics: Metrics,
        *,
        uploads_max: int,
    ) -> None:
        self._database = database
        self._store = store
        self._reservations = reservations
        self._tokenizers = tokenizers
        self._limits = limits
        self._clock = clock
        self._places = threading.BoundedSemaphore(uploads_max)
        self._metrics = metrics
        metrics.gauge("feinschliff_ingestion_upload_slots").set(uploads_max)

    def begin(self, header: Header) -> Running:
        """An upload that takes bytes; the caller must `end` it.

        Raises:
            Invalid: a header that no file can make good (see `Header.check`), REQUEST_ID_REUSED.
            NotFound: DATASET_NOT_FOUND.
            Conflict: UPLOAD_RUNNING, DATASET_BEING_REMOVED.
            Exhausted: UPLOADS_BUSY.
        """
        header.check(self._limits)
        if not self._places.acquire(blocking=False):
            raise Exhausted("UPLOADS_BUSY", "As many uploads run as may at once; try again.", retry_after_seconds=2)
        try:
            return Running(self._open(header), self._places, self._metrics, self._clock)
        except BaseException:
            self._places.release()
            raise

    def _open(self, header: Header) -> Upload:
        counting = self._tokenizers.counting(header.base_model)
        if header.validate_only:
            if not header.create_dataset_if_missing:
                with self._database.reading() as session:
                    found(session, header.project, header.dataset)
            return Trial(header, self._limits, counting)
        version = self._reservations.reserve(header)
        if version.state is State.READY:
            return Replay(version)
        return Receiving(version, header, self._limits, counting, self._store, self._reservations, self._clock)


class Running:
    """An upload that holds a place; `end` gives the place back and removes what was not finished."""

    def __init__(self, upload: Upload, places: threading.BoundedSemaphore, metrics: Metrics, clock: Clock) -> None:
        self._upload = upload
        self._places = places
        self._metrics = metrics
        self._clock = clock
        self._begun_seconds = clock.monotonic()
        self._outcome = "failed"
        self._has_ended = False
        metrics.gauge("feinschliff_ingestion_uploads_in_flight").inc()

    def feed(self, chunk: bytes) -> None:
        """Raises Invalid CHUNK_TOO_LARGE, and whatever the file is refused for."""
        with self._refusals_noted():
            if len(chunk) > CHUNK_BYTES_MAX:
                raise refusals.chunk_too_large(len(chunk), CHUNK_BYTES_MAX)
            self._metrics.counter("feinschliff_ingestion_upload_bytes_total").inc(len(chunk))
            self._upload.feed(chunk)

    def finish(self) -> Version | Verdict:
        with self._refusals_noted():
            result = self._upload.finish()
        self._outcome = "validated" if isinstance(result, Verdict) else "stored"
        if isinstance(result, Version) and result.facts is not None:
            self._count(result.facts)
        return result

    def end(self) -> None:
        """Safe to repeat."""
        if self._has_ended:
            return
        self._has_ended = True
        try:
            self._upload.abandon()
        finally:
            self._places.release()
            seconds = self._clock.monotonic() - self._begun_seconds
            self._metrics.gauge("feinschliff_ingestion_uploads_in_flight").dec()
            self._metrics.counter("feinschliff_ingestion_uploads_total").labels(self._outcome).inc()
            self._metrics.histogram("feinschliff_ingestion_upload_seconds").observe(seconds)

    def _count(self, facts: Facts) -> None:
        rows = self._metrics.counter("feinschliff_ingestion_rows_total")
        rows.labels("kept").inc(facts.rows)
        rows.labels("skipped").inc(facts.rows_skipped)
        self._metrics.counter("feinschliff_ingestion_tokens_total").inc(facts.tokens)
        for finding in facts.findings:
            findings = self._metrics.counter("feinschliff_ingestion_findings_total")
            findings.labels(finding.severity.value).inc(finding.count)

    @contextmanager
    def _refusals_noted(self) -> Iterator[None]:
        try:
            yield
        except Invalid as refusal:
            self._outcome = "refused"
            bad_rows = int(refusal.metadata.get("bad_rows", 0))
            self._metrics.counter("feinschliff_ingestion_rows_total").labels("refused").inc(bad_rows)
            raise
