"""A file on its way through: read from the caller's form, passed on chunk by chunk, at the speed of the slower side."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator
from contextlib import aclosing

from feinschliff.gateway import ids
from feinschliff.gateway.errors import answering, no_file
from feinschliff.gateway.files import check_fields
from feinschliff.gateway.multipart import Form
from feinschliff.v1 import ingestion_pb2 as pb
from feinschliff.v1.ingestion_pb2_grpc import DatasetServiceStub

CHUNK_BYTES = 256 * 1024


async def upload(
    datasets: DatasetServiceStub, header: pb.UploadHeader, form: Form, *, timeout_seconds: float
) -> pb.DatasetVersion:
    """Passes the file on as it comes; memory holds two chunks. Nothing is stored unless the whole form is good.

    Args:
        datasets: a stub for threads. One for asyncio loses the service's reason where the service refuses the file
            while a chunk is on its way: it says INTERNAL instead.

    Raises:
        ApiError: the form, its fields, or the file is refused.
    """
    feed = _Feed(asyncio.get_running_loop())
    call = datasets.UploadDatasetVersion.future(feed, timeout=timeout_seconds)
    call.add_done_callback(feed.on_answer)
    try:
        if await feed.put(pb.UploadDatasetVersionRequest(header=header)):
            await _pour(form, feed)
        await feed.answered.wait()
        with answering(missing=no_file(ids.last_part(header.parent))):
            return call.result()
    finally:
        call.cancel()
        feed.end()


async def _pour(form: Form, feed: _Feed) -> None:
    """Everything the form holds, or as much of it as the service wants before it answers."""
    async with aclosing(_chunks(form)) as chunks:
        async for chunk in chunks:
            if not await feed.put(pb.UploadDatasetVersionRequest(chunk=chunk)):
                return
    await form.finish()
    check_fields(form)
    feed.end()


async def _chunks(form: Form) -> AsyncGenerator[bytes, None]:
    """The file in pieces that are large enough to be worth a message of their own."""
    gathered = bytearray()
    async with aclosing(form.file()) as pieces:
        async for piece in pieces:
            gathered += piece
            if len(gathered) >= CHUNK_BYTES:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


class _Feed:
    """Requests handed from the loop to the thread that sends them: one is sent while one waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answered = asyncio.Event()
        self._loop = loop
        self._waiting: queue.SimpleQueue[pb.UploadDatasetVersionRequest | None] = queue.SimpleQueue()
        self._moved = asyncio.Event()

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> pb.UploadDatasetVersionRequest:
        """Called by the sending thread, which waits here for the next request."""
        self._tell(self._moved)
        request = self._waiting.get()
        if request is None:
            raise StopIteration
        return request

    async def put(self, request: pb.UploadDatasetVersionRequest) -> bool:
        """Hands the request on once the one before is being sent; False if the service has answered already."""
        await self._moved.wait()
        if self.answered.is_set():
            return False
        self._moved.clear()
        self._waiting.put(request)
        return True

    def end(self) -> None:
        """No more requests; more than once is the same as once."""
        self._waiting.put(None)

    def on_answer(self, call: object) -> None:
        """Called by a thread when the call is over."""
        self._tell(self.answered)
        self._tell(self._moved)

    def _tell(self, event: asyncio.Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(event.set)
