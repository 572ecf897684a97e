"""A store in a folder, for one-process tools and tests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from feinschliff.artifacts.store import (
    CHUNK_BYTES,
    GET_BYTES_MAX,
    OCTETS,
    Found,
    Stored,
    check_key,
    file_chunks,
    folder_prefix,
    missing,
    save_chunks,
    too_large,
    unavailable,
)
from feinschliff.artifacts.writer import Writer, pushed
from feinschliff.formats.manifest import MANIFEST_NAME

_ASIDE = ".aside"


class DirectoryStore:
    """Objects as files below `path`; the folder's name is the bucket. Safe for several processes at once."""

    def __init__(self, path: Path) -> None:
        self._root = path
        self._aside = path / _ASIDE

    @property
    def bucket(self) -> str:
        return self._root.name

    def in_bucket(self, bucket: str) -> DirectoryStore:
        return DirectoryStore(self._root.parent / check_key(bucket))

    def put_stream(self, key: str, chunks: Iterable[bytes], *, media_type: str = OCTETS) -> Stored:
        path = self._path(key)
        digest, size_bytes = hashlib.sha256(), 0
        with self._aside_file() as handle:
            for chunk in chunks:
                digest.update(chunk)
                size_bytes += len(chunk)
                handle.write(chunk)
            handle.flush()
            os.fsync(handle.fileno())
            with self._answering():
                path.parent.mkdir(parents=True, exist_ok=True)
                Path(handle.name).replace(path)
        return Stored(key, digest.hexdigest(), size_bytes)

    def put_bytes(self, key: str, data: bytes, *, media_type: str = OCTETS) -> Stored:
        return self.put_stream(key, [data], media_type=media_type)

    def writer(self, key: str, *, media_type: str = OCTETS) -> AbstractContextManager[Writer]:
        check_key(key)
        return pushed(lambda chunks: self.put_stream(key, chunks, media_type=media_type))

    def open(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        path = self._path(key)
        with self._answering():
            if not path.is_file():
                raise missing(key)
        return self._read(path, offset)

    def get_bytes(self, key: str, limit_bytes: int = GET_BYTES_MAX) -> bytes:
        found = self.head(key)
        if found is None:
            raise missing(key)
        if found.size_bytes > limit_bytes:
            raise too_large(key, found.size_bytes, limit_bytes)
        return b"".join(self.open(key))

    def head(self, key: str) -> Found | None:
        path = self._path(key)
        with self._answering():
            if not path.is_file():
                return None
            stat = path.stat()
        return Found(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def list(self, prefix: str = "") -> Iterator[str]:
        base = self._root / folder_prefix(prefix)
        with self._answering():
            self._require_root()
            paths = [path for path in base.rglob("*") if path.is_file()]
        keys = (path.relative_to(self._root).as_posix() for path in paths)
        return iter(sorted(key for key in keys if not key.startswith(f"{_ASIDE}/")))

    def delete(self, key: str) -> None:
        with self._answering():
            self._path(key).unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        check_key(prefix.removesuffix("/"))
        for key in sorted(self.list(prefix), key=lambda key: not key.endswith(MANIFEST_NAME)):
            self.delete(key)

    def download(self, key: str, path: Path) -> Stored:
        return save_chunks(self.open(key), key, path)

    def upload(self, path: Path, key: str, *, media_type: str = OCTETS) -> Stored:
        return self.put_stream(key, file_chunks(path), media_type=media_type)

    def check(self) -> None:
        with self._answering():
            self._require_root()

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @staticmethod
    def _read(path: Path, offset: int) -> Iterator[bytes]:
        with path.open("rb") as source:
            source.seek(offset)
            while chunk := source.read(CHUNK_BYTES):
                yield chunk

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise unavailable(f"the folder {self._root} is not there")

    @contextlib.contextmanager
    def _aside_file(self) -> Iterator[tempfile._TemporaryFileWrapper[bytes]]:
        with self._answering():
            self._require_root()
            self._aside.mkdir(exist_ok=True)
            handle = tempfile.NamedTemporaryFile(dir=self._aside, delete=False)  # noqa: SIM115
        try:
            with handle:
                yield handle
        finally:
            Path(handle.name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            raise unavailable(str(failure)) from failure
