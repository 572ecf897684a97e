"""Several answers to one prompt: each drawn with a seed of its own, all on one lease, their events one stream."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from feinschliff.inference.answers import Held
from feinschliff.inference.engine import Delta, Done, Engine, GenerationRequest
from feinschliff.kit.errors import Exhausted

_RETRY_SECONDS = 1.0

Stream = Callable[[Held, GenerationRequest], AsyncGenerator[Delta | Done]]
"""One answer's events; gives the lease back."""


class Piece(NamedTuple):
    """What happened to the answer of this number, from 0."""

    number: int
    event: Delta | Done


def drawn_apart(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """The same request `count` times; the first has its seed, each other one a seed that follows from it."""
    return [replace(request, seed=_seed(request.seed, index)) for index in range(count)]


def _seed(seed: int, index: int) -> int:
    if index == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8]) >> 1


async def several(stream: Stream, lease: Held, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Piece]:
    """The pieces of all answers as they come; each answer ends with Done, the stream with the last of them.

    No more are generated at once than the engine has places. The first is refused where the queue is full, the others
    wait. Leaving the iteration ends them all.

    Raises:
        Exhausted: QUEUE_FULL.
        Internal: GENERATION_FAILED.
        Unavailable: ENGINE_CLOSED.
    """
    if len(requests) == 1:
        async with aclosing(stream(lease, requests[0])) as events:
            async for event in events:
                yield Piece(0, event)
        return
    shared = _Shared(lease)
    pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
    places = asyncio.Semaphore(lease.engine.capacity().rows_max)

    async def answer(index: int) -> None:
        async with places:
            try:
                await _pour(stream, shared, requests[index], index, pieces)
            except Exception as error:
                pieces.put_nowait(error)

    tasks = [asyncio.ensure_future(answer(index)) for index in range(len(requests))]
    try:
        ended = 0
        while ended < len(tasks):
            piece = await pieces.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            ended += isinstance(piece.event, Done)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        shared.give_back()


async def _pour(
    stream: Stream,
    shared: _Shared,
    request: GenerationRequest,
    index: int,
    pieces: asyncio.Queue[Piece | Exception],
) -> None:
    while True:
        try:
            async with aclosing(stream(shared.share(), request)) as events:
                async for event in events:
                    pieces.put_nowait(Piece(index, event))
            return
        except Exhausted as refusal:
            if index == 0:
                raise
            await asyncio.sleep(refusal.retry_after_seconds or _RETRY_SECONDS)


class _Shared:
    """A lease in parts: it is given back with the last of them, this one included."""

    def __init__(self, lease: Held) -> None:
        self._lease = lease
        self._lock = threading.Lock()
        self._parts = 1

    def share(self) -> _Share:
        with self._lock:
            self._parts += 1
        return _Share(self._lease.engine, self)

    def give_back(self) -> None:
        with self._lock:
            self._parts -= 1
            is_last = self._parts == 0
        if is_last:
            self._lease.give_back()


class _Share:
    def __init__(self, engine: Engine, shared: _Shared) -> None:
        self.engine = engine
        self._shared = shared
        self._lock = threading.Lock()
        self._is_given_back = False

    def give_back(self) -> None:
        """Once counts; any thread may."""
        with self._lock:
            if self._is_given_back:
                return
            self._is_given_back = True
        self._shared.give_back()
