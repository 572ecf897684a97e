"""A stream of answers that has begun: whoever leaves, at whatever word, ends the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from feinschliff.inference.chatting import begun
from feinschliff.kit.errors import Exhausted


class Work:
    """Two pieces, and whether it gave back what it was handed."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self._refusal = refusal
        self.gate = asyncio.Event()
        self.is_given_back = False

    async def pieces(self) -> AsyncGenerator[int]:
        try:
            if self._refusal:
                raise self._refusal
            await self.gate.wait()
            yield 1
            yield 2
        finally:
            self.is_given_back = True


async def test_what_is_left_before_its_first_piece_gives_back_what_it_holds() -> None:
    work = Work()
    async with begun(work.pieces()):
        assert not work.is_given_back
    assert work.is_given_back


async def test_one_that_is_cancelled_before_its_first_piece_does_too() -> None:
    work = Work()

    async def stream() -> None:
        async with begun(work.pieces()) as (first, _):
            await first

    task = asyncio.ensure_future(stream())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert work.is_given_back


async def test_all_pieces_come_in_order() -> None:
    work = Work()
    work.gate.set()
    async with begun(work.pieces()) as (first, others):
        assert [await first, *[piece async for piece in others]] == [1, 2]


async def test_what_is_refused_at_its_beginning_is_refused_before_anything_is_said() -> None:
    work = Work(Exhausted("QUEUE_FULL", "Full."))
    with pytest.raises(Exhausted):
        async with begun(work.pieces()):
            pytest.fail("nothing may be said")
    assert work.is_given_back
