"""Asks several at the same time; where one fails, nobody goes on asking for an answer that is not wanted any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TypeVar

T = TypeVar("T")


async def together(asked: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """All results in order; raises what the first that fails raises, once all others have ended."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
