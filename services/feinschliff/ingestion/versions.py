"""Versions as readers see them: what is known, their rows in order, and the bytes as they came."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import orjson

from feinschliff.artifacts.commit import key_of
from feinschliff.artifacts.store import Store
from feinschliff.ingestion import store as tables
from feinschliff.ingestion.datasets import found
from feinschliff.ingestion.lines import LineSplitter
from feinschliff.ingestion.listing import Wish
from feinschliff.ingestion.model import DATASET, SOURCE, VERSION, Facts, State, Version, file_of
from feinschliff.ingestion.readers.reader import Content
from feinschliff.kit.db import Database
from feinschliff.kit.errors import FieldViolation, Invalid, NotFound, Unavailable, WrongState

BATCH_BYTES = 1024 * 1024
BATCH_ROWS = 1000
SAMPLE_ROWS, SAMPLE_ROWS_MAX = 10, 1000
_ROW_BYTES_MAX = 64 * 1024 * 1024
_LINE_KEY = b',"line":'
_TRIES = 3


class RowRead(NamedTuple):
    """A stored row: `sha256` is of its content alone, so duplicates share it."""

    line: int
    split: str
    content: Content
    sha256: str


class _Text(NamedTuple):
    line: int
    split: str
    text: bytes


class Chunk(NamedTuple):
    offset_bytes: int
    data: bytes


class Versions:
    """Reads of versions; streams hold one chunk a split, whatever the size."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store

    @property
    def bucket(self) -> str:
        return self._store.bucket

    def get(self, project: str, dataset: str, number: int) -> Version:
        """Raises NotFound VERSION_NOT_FOUND."""
        with self._database.reading() as session:
            version = tables.read_version(session, project, dataset, number)
        if version is None:
            name = VERSION.format(project=project, dataset=dataset, version=number)
            raise NotFound("VERSION_NOT_FOUND", f"There is no dataset version {name}.", dataset_version=name)
        return version

    def list(self, project: str, dataset: str, wish: Wish) -> tables.PageOf[Version]:
        """The dataset `-` means all of the project."""
        asked = tables.VERSION_LISTING.ask(wish, f"{DATASET.format(project=project, dataset=dataset)}/versions")
        with self._database.reading() as session:
            if dataset != "-":
                found(session, project, dataset)
            return tables.list_versions(session, project, dataset, asked)

    def rows(self, version: Version, split: str = "", *, start: int = 0, limit: int = 0) -> Iterator[Sequence[RowRead]]:
        """Batches of about 1 MiB; without a split all rows in the order of the source.

        Raises:
            WrongState: VERSION_NOT_READY.
            Invalid: RANGE_INVALID.
        """
        facts = _ready(version)
        _check_range("start", start)
        _check_range("limit", limit)
        texts = islice(self._texts(version, facts, split), start, start + limit if limit else None)
        return _batches(texts)

    def sample(self, version: Version, split: str, count: int, seed: int) -> Sequence[RowRead]:
        """Rows drawn without replacement, in the order drawn; 0 draws 10, at most 1000."""
        facts = _ready(version)
        if not 0 <= count <= SAMPLE_ROWS_MAX:
            raise _out_of_range("count", f"0 to {SAMPLE_ROWS_MAX}")
        rows = facts.rows_by_split.get(split, 0) if split else facts.rows
        places = random.Random(seed).sample(range(rows), min(count or SAMPLE_ROWS, rows))
        wanted, last = set(places), max(places, default=-1)
        texts = enumerate(islice(self._texts(version, facts, split), last + 1))
        drawn = {place: _parsed(text) for place, text in texts if place in wanted}
        return [drawn[place] for place in places]

    def source(self, version: Version, *, offset_bytes: int = 0, limit_bytes: int = 0) -> Iterator[Chunk]:
        """The bytes as they were uploaded, in chunks of at most 1 MiB."""
        facts = _ready(version)
        _check_range("offset_bytes", offset_bytes)
        _check_range("limit_bytes", limit_bytes)
        end = min(offset_bytes + limit_bytes, facts.source.size_bytes) if limit_bytes else facts.source.size_bytes
        return self._source(key_of(version.prefix, SOURCE), offset_bytes, end)

    def _source(self, key: str, place: int, end: int) -> Iterator[Chunk]:
        if place >= end:
            return
        with closing(chunks_of(self._store, key, offset_bytes=place)) as chunks:
            for data in chunks:
                yield Chunk(place, data[: end - place])
                place += len(data)
                if place >= end:
                    return

    def _texts(self, version: Version, facts: Facts, split: str) -> Iterator[_Text]:
        names = [name for name in facts.splits if not split or name == split]
        streams = [self._split_texts(version, name) for name in names]
        return streams[0] if len(streams) == 1 else heapq.merge(*streams)

    def _split_texts(self, version: Version, split: str) -> Iterator[_Text]:
        lines = LineSplitter(_ROW_BYTES_MAX)
        with closing(chunks_of(self._store, key_of(version.prefix, file_of(split)))) as chunks:
            for chunk in chunks:
                for _, text in lines.feed(chunk):
                    if text is not None:
                        yield _Text(int(text[text.rindex(_LINE_KEY) + len(_LINE_KEY) : -1]), split, text)


def chunks_of(store: Store, key: str, *, offset_bytes: int = 0) -> Generator[bytes]:
    """An object's bytes; a connection that breaks is opened again where it broke.

    A reader that takes its time holds the connection idle, and servers close those.

    Raises:
        Unavailable: STORE_UNAVAILABLE where three tries in a row gave nothing.
    """
    tries = _TRIES
    while True:
        try:
            for chunk in store.open(key, offset=offset_bytes):
                offset_bytes += len(chunk)
                tries = _TRIES
                yield chunk
        except Unavailable:
            tries -= 1
            if tries == 0:
                raise
        else:
            return


def _parsed(row: _Text) -> RowRead:
    text = row.text[: row.text.rindex(_LINE_KEY)] + b"}"
    return RowRead(row.line, row.split, orjson.loads(text), hashlib.sha256(text).hexdigest())


def _batches(texts: Iterator[_Text]) -> Iterator[Sequence[RowRead]]:
    batch: list[RowRead] = []
    size_bytes = 0
    for text in texts:
        if batch and (size_bytes + len(text.text) > BATCH_BYTES or len(batch) >= BATCH_ROWS):
            yield batch
            batch, size_bytes = [], 0
        batch.append(_parsed(text))
        size_bytes += len(text.text)
    if batch:
        yield batch


def _ready(version: Version) -> Facts:
    if version.state is not State.READY or version.facts is None:
        raise WrongState(
            "VERSION_NOT_READY",
            f"{version.name} is {version.state}; its rows can be read once it is READY.",
            advice=["Watch the version until it is READY."],
            dataset_version=version.name,
            state=version.state,
        )
    return version.facts


def _check_range(field: str, value: int) -> None:
    if value < 0:
        raise _out_of_range(field, "0 or more")


def _out_of_range(field: str, allowed: str) -> Invalid:
    message = f"`{field}` is {allowed}."
    return Invalid("RANGE_INVALID", message, fields=[FieldViolation(field, message, "RANGE_INVALID")], field=field)
