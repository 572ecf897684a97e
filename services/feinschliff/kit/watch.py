"""Watching something by a cursor: no event lost, none twice, and no busy loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from feinschliff.kit.threads import offload

E = TypeVar("E")


class Wake:
    """Tells waiting tasks that there may be something new; from any thread, for any event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def turn(self) -> int:
        """Counts the notifications; read it before looking, wait for a later one after."""
        return self._turn

    def notify(self) -> None:
        with self._lock:
            self._turn += 1
            waiting, self._waiting = self._waiting, set()
        for loop, event in waiting:
            with suppress(RuntimeError):  # that loop is closed: nobody waits on it
                loop.call_soon_threadsafe(event.set)

    async def wait(self, after: int, timeout_seconds: float) -> None:
        """Returns once there was a notification later than `after`, or when the time is up."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self._turn > after:
                return
            self._waiting.add(entry)
        try:
            await asyncio.wait_for(entry[1].wait(), timeout_seconds)
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiting.discard(entry)


async def follow(
    read: Callable[[int], Sequence[E]],
    *,
    cursor_of: Callable[[E], int],
    start: int = 0,
    is_final: Callable[[], bool],
    wake: Wake,
    poll_seconds: float = 0.5,
) -> AsyncIterator[E]:
    """Yields every event after the cursor `start` in order, until all is read and nothing more can come.

    `read` and `is_final` may block; they run in a thread. Polling finds what other processes wrote, `wake` what this
    one wrote. Cursors must become visible in rising order: give them out under a lock on the parent's row.

    Args:
        read: events with a cursor greater than the given one, ascending; may be a part of them, empty means none yet.
        is_final: whether events can still come; asked before each read, so that the last ones are not missed.
    """
    cursor = start
    while True:
        turn = wake.turn
        final = await offload(is_final)
        events = await offload(read, cursor)
        for event in events:
            cursor = cursor_of(event)
            yield event
        if not events:
            if final:
                return
            await wake.wait(turn, poll_seconds)
