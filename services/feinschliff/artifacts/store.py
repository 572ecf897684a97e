"""The protocol that every object store fulfils; one contract suite holds for all of them."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from feinschliff.artifacts.writer import Writer
from feinschliff.kit.errors import Invalid, NotFound, Unavailable

OCTETS = "application/octet-stream"
CHUNK_BYTES = 1024 * 1024
GET_BYTES_MAX = 16 * 1024 * 1024
_KEY_BYTES_MAX = 900
_SEGMENT = re.compile(r"^[^\x00-\x1f\x7f\\/]+$")


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it was written: the hash is of the bytes that went in."""

    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """An object as the store lists it; a store need not know the hash."""

    key: str
    size_bytes: int
    modified_time: datetime


class Store(Protocol):
    """Objects under `/`-separated keys.

    An object appears whole or not at all: a write that fails leaves nothing, and an overwrite is seen at once. A prefix
    means a folder: `list("a/b")` gives `a/b/c` but not `a/bc`. Memory stays bounded whatever the size.

    Every method raises `Unavailable(STORE_UNAVAILABLE)` within seconds while the store does not answer, and
    `Invalid(ARTIFACT_KEY_INVALID)` for a malformed key; readers raise `NotFound(ARTIFACT_NOT_FOUND)`.
    """

    @property
    def bucket(self) -> str:
        """The bucket all keys are in."""
        ...

    def in_bucket(self, bucket: str) -> Store:
        """The same store, another bucket (which must exist)."""
        ...

    def put_stream(self, key: str, chunks: Iterable[bytes], *, media_type: str = OCTETS) -> Stored:
        """Write chunks of any size and number; an exception from `chunks` passes through and nothing is stored."""
        ...

    def put_bytes(self, key: str, data: bytes, *, media_type: str = OCTETS) -> Stored: ...

    def writer(self, key: str, *, media_type: str = OCTETS) -> AbstractContextManager[Writer]:
        """Push instead of pull: `with store.writer(key) as out: out.write(b"...")`, then `out.stored`.

        Committed only on a clean exit; an exception inside the block stores nothing.
        """
        ...

    def open(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` (0 .. size) on, in chunks of at most 1 MiB; a missing key is refused at once."""
        ...

    def get_bytes(self, key: str, limit_bytes: int = GET_BYTES_MAX) -> bytes:
        """The whole object; `Invalid(ARTIFACT_TOO_LARGE)` beyond the limit."""
        ...

    def head(self, key: str) -> Found | None: ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """All keys below the folder, however deep, in no promised order."""
        ...

    def delete(self, key: str) -> None:
        """A missing key is fine."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Everything below the folder; manifests go first, so that a half-deleted set never looks real.

        The empty prefix is refused: nobody means to empty the bucket.
        """
        ...

    def download(self, key: str, path: Path) -> Stored:
        """Into `path`, which appears whole or not at all."""
        ...

    def upload(self, path: Path, key: str, *, media_type: str = OCTETS) -> Stored: ...

    def check(self) -> None:
        """For readiness: one small question with a short timeout."""
        ...


def check_key(key: str) -> str:
    """The key itself if it is well formed: relative, no empty, `.` or `..` segments, at most 900 bytes of UTF-8."""
    segments = key.split("/")
    if (
        len(key.encode("utf-8", "replace")) > _KEY_BYTES_MAX
        or any(segment in {".", ".."} or not _SEGMENT.match(segment) for segment in segments)
        or key != key.strip()
    ):
        raise Invalid("ARTIFACT_KEY_INVALID", f"{key[:200]!r} is no key of an object.", key=key[:200])
    return key


def folder_prefix(prefix: str) -> str:
    """`a/b` and `a/b/` as `a/b/`; the empty prefix is the whole bucket."""
    return f"{check_key(prefix.removesuffix('/'))}/" if prefix else ""


def file_chunks(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """A file's bytes in pieces."""
    with path.open("rb") as source:
        while chunk := source.read(chunk_bytes):
            yield chunk


def save_chunks(chunks: Iterable[bytes], key: str, path: Path) -> Stored:
    """Write chunks beside `path` and rename: the file appears whole or not at all."""
    digest, size_bytes = hashlib.sha256(), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:100]}.", delete=False) as handle:
        aside = Path(handle.name)
        try:
            for chunk in chunks:
                digest.update(chunk)
                size_bytes += len(chunk)
                handle.write(chunk)
            handle.flush()
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    return Stored(key, digest.hexdigest(), size_bytes)


def missing(key: str) -> NotFound:
    return NotFound("ARTIFACT_NOT_FOUND", f"There is no object {key}.", key=key)


def too_large(key: str, size_bytes: int, limit_bytes: int) -> Invalid:
    return Invalid(
        "ARTIFACT_TOO_LARGE",
        f"{key} has {size_bytes} bytes; at most {limit_bytes} are read at once.",
        key=key,
        size_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )


def unavailable(why: str) -> Unavailable:
    return Unavailable(
        "STORE_UNAVAILABLE", f"The object store does not answer: {why}", retry_after_seconds=1, why=why[:300]
    )
