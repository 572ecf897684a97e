"""Turns a store's pulled stream into a pushed one: a thread pulls what the writer is given."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feinschliff.artifacts.store import Stored

PIECE_BYTES = 1024 * 1024
_QUEUE_PIECES = 4


class _Aborted(Exception):
    """The producer gave up; the pulled stream ends with this, so that the store drops what it has."""


class Writer:
    """Takes bytes for one object; `stored` is there after the block has ended cleanly.

    Not for several threads at once. At most about 4 MiB wait for the store; then `write` blocks.
    """

    def __init__(self, put: Callable[[Iterable[bytes]], Stored]) -> None:
        self._put = put
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_QUEUE_PIECES)
        self._pending = bytearray()
        self._aborted = False
        self._failure: BaseException | None = None
        self._stored: Stored | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._pull, name="artifact-writer", daemon=True)
        self.bytes_written = 0

    @property
    def stored(self) -> Stored:
        """What was written.

        Raises:
            RuntimeError: the block has not ended, or not cleanly.
        """
        if self._stored is None:
            raise RuntimeError("nothing is stored before the writer's block has ended cleanly")
        return self._stored

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take all of `data`; raises what made the store fail, at this call or a later one."""
        self._pending += data
        self.bytes_written += len(data)
        while len(self._pending) >= PIECE_BYTES:
            self._push(bytes(memoryview(self._pending)[:PIECE_BYTES]))
            del self._pending[:PIECE_BYTES]
        return len(data)

    def _push(self, piece: bytes | None) -> None:
        while not self._done.is_set():
            try:
                self._pieces.put(piece, timeout=0.2)
            except queue.Full:
                continue
            return
        if self._failure is not None:
            raise self._failure

    def _pull(self) -> None:
        try:
            self._stored = self._put(self._chunks())
        except BaseException as failure:
            self._failure = failure
        finally:
            self._done.set()

    def _chunks(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            yield piece
        if self._aborted:
            raise _Aborted

    def _finish(self) -> None:
        if self._pending:
            self._push(bytes(self._pending))
            self._pending.clear()
        self._push(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _abort(self) -> None:
        self._aborted = True
        while not self._done.is_set():
            try:
                self._pieces.put(None, timeout=0.2)
                break
            except queue.Full:
                continue
        self._thread.join()


@contextmanager
def pushed(put: Callable[[Iterable[bytes]], Stored]) -> Iterator[Writer]:
    """A writer over a function that stores a pulled stream."""
    out = Writer(put)
    out._thread.start()
    try:
        yield out
    except BaseException:
        out._abort()
        raise
    out._finish()
