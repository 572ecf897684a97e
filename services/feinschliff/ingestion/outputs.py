"""Where a file's bytes go: into objects that appear together or not at all, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from feinschliff.artifacts.commit import key_of
from feinschliff.artifacts.store import Store, Stored
from feinschliff.artifacts.writer import Writer
from feinschliff.ingestion.model import SOURCE, file_of

JSON_LINES = "application/jsonl"
OCTETS = "application/octet-stream"


class Abandoned(Exception):
    """Ends writers without a commit."""


class Nowhere:
    """Forgets all bytes; for files that are only checked."""

    def source(self, data: bytes) -> None:
        pass

    def split(self, name: str, data: bytes) -> None:
        pass


class _Open(NamedTuple):
    context: AbstractContextManager[Writer]
    writer: Writer


class StoreOutputs:
    """Writes below a prefix of the store; a writer opens with its first byte, so an empty split has no object."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._open: dict[str, _Open] = {}

    def source(self, data: bytes) -> None:
        self._write(SOURCE, data, OCTETS)

    def split(self, name: str, data: bytes) -> None:
        self._write(file_of(name), data, JSON_LINES)

    def close(self) -> Mapping[str, Stored]:
        """Stores everything, by name of the file."""
        stored = {}
        while self._open:
            name, (context, writer) = self._open.popitem()
            context.__exit__(None, None, None)
            stored[name] = writer.stored
        return stored

    def abandon(self) -> None:
        """Ends all writers; nothing of what they still had open is stored."""
        while self._open:
            _, (context, _) = self._open.popitem()
            context.__exit__(Abandoned, Abandoned(), None)

    def _write(self, name: str, data: bytes, media_type: str) -> None:
        if name not in self._open:
            context = self._store.writer(key_of(self._prefix, name), media_type=media_type)
            self._open[name] = _Open(context, context.__enter__())
        self._open[name].writer.write(data)
