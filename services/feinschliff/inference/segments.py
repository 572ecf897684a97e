"""One file of the spool: records one after the other, each with its length, checksum and time; owned by a lock."""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct(">IId")  # payload's length, its CRC-32, when it was written (Unix seconds)
SUFFIX = ".spool"
RECORD_BYTES_MAX = 15 * 1024 * 1024  # what fits into a gRPC message of ours, with room for its frame


class Record(NamedTuple):
    """A payload, where it stands in its file, and when it was written."""

    at: int
    written: float
    payload: bytes


def framed(payload: bytes, written: float) -> bytes:
    return _HEAD.pack(len(payload), zlib.crc32(payload), written) + payload


class Segment:
    """A file that this process owns until it is removed or the process ends, also by kill -9.

    Attributes:
        size_bytes: what is in it.
        done: places of records that need not be sent any more.
        torn_bytes: bytes behind the last whole record, once all have been read.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size_bytes = os.fstat(fd).st_size
        self.done: set[int] = set()
        self.torn_bytes = 0

    @classmethod
    def create(cls, path: Path) -> Segment:
        """A new file; it has its name only once it is locked, so that nobody takes it for a dead one's.

        Raises:
            OSError: the disk is full or broken.
        """
        nameless = path.with_suffix(".new")
        fd = os.open(nameless, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nameless.rename(path)
        except OSError:
            os.close(fd)
            raise
        return cls(path, fd)

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """A file whose owner is gone; None where it has one, or is gone itself."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return cls(path, fd)
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return None

    def append(self, frames: bytes) -> None:
        """All of it or nothing.

        Raises:
            OSError: the disk is full or broken.
        """
        rest = memoryview(frames)
        try:
            while rest:
                rest = rest[os.write(self.fd, rest) :]
        except OSError:
            os.ftruncate(self.fd, self.size_bytes)
            raise
        self.size_bytes += len(frames)

    def records(self) -> Iterator[Record]:
        """Those that are whole and not done. A writer that was killed may leave part of one more at the end."""
        at = 0
        while (head := os.pread(self.fd, _HEAD.size, at)) and len(head) == _HEAD.size:
            length, checksum, written = _HEAD.unpack(head)
            payload = os.pread(self.fd, length, at + _HEAD.size) if length <= RECORD_BYTES_MAX else b""
            if len(payload) != length or zlib.crc32(payload) != checksum:
                break
            if at not in self.done:
                yield Record(at, written, payload)
            at += _HEAD.size + length
        self.torn_bytes = self.size_bytes - at

    def sync(self) -> None:
        os.fsync(self.fd)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        os.close(self.fd)
