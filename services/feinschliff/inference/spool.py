"""What is to be logged, kept on disk until it is: written before the answer goes out, bounded in bytes, never lost."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from feinschliff.inference.segments import RECORD_BYTES_MAX, SUFFIX, Segment, framed

log = logging.getLogger(__name__)
SEGMENTS = 64  # the bound is cut into so many files, which are removed one by one
SEGMENT_BYTES_MIN = 1024 * 1024


class Dropped(Exception):
    """A record that is not kept.

    Attributes:
        reason: `full`, `too_large` or `disk`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Waiting(NamedTuple):
    frame: bytes
    written: Future[None]


class Spool:
    """A folder of segments. One thread appends, another one makes it durable; whoever delivers takes segments.

    What `append` has answered survives kill -9 of the process: it is the kernel's. A moment later it is the disk's, and
    survives a power cut too. Several processes may share the folder; what a dead one left is taken by another.
    """

    def __init__(
        self, folder: Path, *, bytes_max: int, changed: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            changed: called from a thread when there is something to take.

        Raises:
            OSError: the folder cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.bytes_max = bytes_max
        self._segment_bytes = max(SEGMENT_BYTES_MIN, bytes_max // SEGMENTS)
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()  # of the files; held while the disk works
        self._counting = threading.Lock()  # of the bound alone: who appends waits for no disk
        self._bytes = 0
        self._open: Segment | None = None
        self._sealed: deque[Segment] = deque()
        self._mine: set[Path] = set()
        self._arriving: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._dirty, self._is_closed = threading.Event(), False
        self._threads = [
            threading.Thread(target=run, name=f"spool-{run.__name__.strip('_')}", daemon=True)
            for run in (self._write, self._sync)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def size_bytes(self) -> int:
        """Bytes on disk and on their way there."""
        return self._bytes

    def append(self, payload: bytes) -> Future[None]:
        """Does not wait; the future is done once the record survives the process, or has failed with Dropped `disk`.

        Raises:
            Dropped: `too_large`, `full`.
        """
        if len(payload) > RECORD_BYTES_MAX:
            told = f"{len(payload)} bytes are more than {RECORD_BYTES_MAX}"
            raise Dropped("too_large", told)
        waiting = _Waiting(framed(payload, self._clock()), Future())
        with self._counting:
            if self._bytes + len(waiting.frame) > self.bytes_max:
                raise Dropped("full", f"the spool has {self._bytes} of {self.bytes_max} bytes")
            self._bytes += len(waiting.frame)
        self._arriving.put(waiting)
        return waiting.written

    def take(self) -> Segment | None:
        """The segment that has waited longest, nothing added to it any more; None where there is none.

        What comes next with it: `remove` or `put_back`. What a dead process left comes first.
        """
        self._adopt()
        with self._lock:
            fresh, self._open = self._open, None
            if fresh is not None:
                self._sealed.append(fresh)
            segment = self._sealed.popleft() if self._sealed else None
        if fresh is not None:
            _make_durable(fresh)
        return segment

    def put_back(self, segment: Segment) -> None:
        """Not all of it could be delivered; it comes again after the others."""
        with self._lock:
            self._sealed.append(segment)

    def remove(self, segment: Segment) -> None:
        """All of it is delivered."""
        segment.remove()
        with self._lock:
            self._mine.discard(segment.path)
        self._count(-segment.size_bytes)

    def close(self) -> None:
        """Writes what still arrives and lets go of the files; what is in them is found again."""
        self._arriving.put(None)
        self._threads[0].join()
        self._is_closed = True
        self._dirty.set()
        self._threads[1].join()
        with self._lock:
            left = [*self._sealed, *([self._open] if self._open else [])]
            self._sealed.clear()
            self._open = None
        for segment in left:
            _make_durable(segment)
            segment.close()

    def _write(self) -> None:
        while True:
            arrived = self._arrived()
            batch = [one for one in arrived if one is not None]
            if batch:
                self._write_all(batch)
            if len(batch) < len(arrived):
                return

    def _write_all(self, batch: list[_Waiting]) -> None:
        frames = b"".join(one.frame for one in batch)
        try:
            with self._lock:
                self._append(frames)
        except OSError as error:
            log.error("the spool cannot be written", extra={"why": str(error), "records": len(batch)})
            self._count(-len(frames))
            for one in batch:
                one.written.set_exception(Dropped("disk", str(error)))
            return
        for one in batch:
            one.written.set_result(None)
        self._dirty.set()
        self._changed()

    def _arrived(self) -> list[_Waiting | None]:
        """All that waits to be written, at least one; None ends it."""
        batch = [self._arriving.get()]
        with suppress(queue.Empty):
            while True:
                batch.append(self._arriving.get_nowait())
        return batch

    def _append(self, frames: bytes) -> None:
        segment = self._segment()
        try:
            segment.append(frames)
        except OSError:  # what follows goes into another file: behind half a record nothing would be found
            self._sealed.append(segment)
            self._open = None
            raise

    def _segment(self) -> Segment:
        """The one to append to; with the lock."""
        if self._open is not None and self._open.size_bytes >= self._segment_bytes:
            self._sealed.append(self._open)
            self._open = None
        if self._open is None:
            path = self._folder / f"{int(self._clock() * 1000):013d}-{uuid.uuid4().hex}{SUFFIX}"
            self._mine.add(path)
            self._open = Segment.create(path)
        return self._open

    def _count(self, change: int) -> None:
        with self._counting:
            self._bytes += change

    def _sync(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            if self._is_closed:
                return
            with self._lock:
                fd = os.dup(self._open.fd) if self._open is not None else None
            if fd is None:  # taken, and synced by its taker
                continue
            try:
                os.fsync(fd)
                self._sync_folder()
            except OSError as error:
                log.error("the spool cannot be made durable", extra={"why": str(error)})
            finally:
                os.close(fd)

    def _sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _adopt(self) -> None:
        """Segments whose owners are gone become ours."""
        with self._lock:
            known = set(self._mine)
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            segment = None if path in known else Segment.adopt(path)
            if segment is None:
                continue
            with self._lock:
                self._mine.add(path)
                self._sealed.append(segment)
            self._count(segment.size_bytes)


def _make_durable(segment: Segment) -> None:
    try:
        segment.sync()
    except OSError as error:
        log.error("the spool cannot be made durable", extra={"why": str(error)})
