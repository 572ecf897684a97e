"""Between a pool and its processes: a kind, a length, and that many bytes."""

from __future__ import annotations

import os
import select
import struct
import time

READY, CALL, ANSWER, LATE, CRASHED = b"R", b"C", b"A", b"T", b"X"
BYTES_MAX = 64 * 1024 * 1024
_HEAD = struct.Struct("<cdI")


class Lost(Exception):
    """The other side is gone, or says what no frame is."""


class Late(Exception):
    """The other side did not answer in its time."""


def pack(kind: bytes, content: bytes, seconds: float = 0.0) -> bytes:
    return _HEAD.pack(kind, seconds, len(content)) + content


def write(fd: int, frame: bytes) -> None:
    view = memoryview(frame)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise Lost(str(error)) from error


def read(fd: int, timeout_seconds: float | None = None) -> tuple[bytes, float, bytes]:
    """Kind, seconds and content of one frame.

    Raises:
        Lost, Late.
    """
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    kind, seconds, size = _HEAD.unpack(_read_exactly(fd, _HEAD.size, until))
    if size > BYTES_MAX:
        raise Lost(f"a frame of {size} bytes")
    return kind, seconds, _read_exactly(fd, size, until)


def _read_exactly(fd: int, size: int, until: float | None) -> bytes:
    pieces: list[bytes] = []
    while size:
        if until is not None:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise Late
        try:
            piece = os.read(fd, min(size, 1024 * 1024))
        except OSError as error:
            raise Lost(str(error)) from error
        if not piece:
            raise Lost("the other side is gone")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
