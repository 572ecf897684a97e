"""Waiting for a condition with a deadline, in place of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def eventually(condition: Callable[[], T], timeout_seconds: float = 60.0, what: str = "the condition") -> T:
    """The first truthy value of `condition`; fails the test after the timeout, naming what did not come.

    Raises:
        AssertionError: with the last value seen.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {timeout_seconds} s; last seen: {value!r}")
        time.sleep(POLL_SECONDS)
    return value


async def eventually_async(
    condition: Callable[[], Awaitable[T]], timeout_seconds: float = 60.0, what: str = "the condition"
) -> T:
    """`eventually` for conditions that are awaited."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {timeout_seconds} s; last seen: {value!r}")
        await asyncio.sleep(POLL_SECONDS)
    return value
