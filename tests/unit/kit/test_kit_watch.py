"""Watching by a cursor."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from feinschliff.kit.watch import Wake, follow


class Log:
    """Events 1, 2, 3 ... that another thread writes; reads give at most three."""

    def __init__(self, total: int) -> None:
        self._lock = threading.Lock()
        self._events: list[int] = []
        self._total = total
        self.reads = 0

    def write(self) -> None:
        with self._lock:
            self._events.append(len(self._events) + 1)

    def read(self, after: int) -> Sequence[int]:
        with self._lock:
            self.reads += 1
            return self._events[after : after + 3]

    def is_final(self) -> bool:
        with self._lock:
            return len(self._events) == self._total


async def collect(log: Log, wake: Wake, start: int = 0, poll_seconds: float = 30) -> list[int]:
    async def run() -> list[int]:
        events = follow(
            log.read, cursor_of=int, start=start, is_final=log.is_final, wake=wake, poll_seconds=poll_seconds
        )
        return [event async for event in events]

    return await asyncio.wait_for(run(), 10)


async def test_every_event_comes_once_and_in_order_however_writing_and_reading_meet() -> None:
    log, wake = Log(500), Wake()

    def write() -> None:
        for _ in range(500):
            log.write()
            wake.notify()

    writer = threading.Thread(target=write)
    watching = [asyncio.ensure_future(collect(log, wake)) for _ in range(3)]
    writer.start()
    for events in await asyncio.gather(*watching):
        assert events == list(range(1, 501))
    writer.join()


async def test_a_watcher_that_comes_back_gets_exactly_the_rest() -> None:
    log = Log(10)
    for _ in range(10):
        log.write()
    assert await collect(log, Wake(), start=7) == [8, 9, 10]


async def test_a_watcher_that_comes_back_after_the_last_event_ends_at_once() -> None:
    log = Log(2)
    log.write()
    log.write()
    assert await collect(log, Wake(), start=2) == []


async def test_polling_finds_what_nobody_announced() -> None:
    log = Log(1)
    watching = asyncio.ensure_future(collect(log, Wake(), poll_seconds=0.02))
    while log.reads < 2:
        await asyncio.sleep(0)
    log.write()
    assert await watching == [1]


async def test_waiting_is_not_a_busy_loop() -> None:
    log = Log(1)
    watching = asyncio.ensure_future(collect(log, Wake(), poll_seconds=0.1))
    await asyncio.wait({watching}, timeout=0.35)
    assert 2 <= log.reads <= 5
    log.write()
    assert await watching == [1]


async def test_an_event_and_the_end_written_between_two_looks_are_both_seen() -> None:
    log = Log(1)
    asked = []

    def is_final() -> bool:
        final = log.is_final()
        if not asked:
            asked.append(1)
            log.write()
        return final

    events = follow(log.read, cursor_of=int, is_final=is_final, wake=Wake(), poll_seconds=0.01)
    assert [event async for event in events] == [1]


async def test_a_notification_between_look_and_wait_is_not_lost() -> None:
    wake = Wake()
    turn = wake.turn
    wake.notify()
    await asyncio.wait_for(wake.wait(turn, 30), 1)


async def test_waiting_ends_when_its_time_is_up() -> None:
    wake = Wake()
    await asyncio.wait_for(wake.wait(wake.turn, 0.01), 5)


def test_one_wake_serves_several_event_loops_and_threads() -> None:
    wake, woken, ready = Wake(), [], threading.Barrier(4)

    async def wait() -> None:
        turn = wake.turn
        ready.wait(5)
        await asyncio.wait_for(wake.wait(turn, 30), 5)
        woken.append(1)

    threads = [threading.Thread(target=lambda: asyncio.run(wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait(5)
    wake.notify()
    for thread in threads:
        thread.join(10)
    assert len(woken) == 3


async def test_what_reading_raises_reaches_the_watcher() -> None:
    def read(after: int) -> Sequence[int]:
        raise OSError("gone")

    events = follow(read, cursor_of=int, is_final=lambda: False, wake=Wake())
    with pytest.raises(OSError, match="gone"):
        await anext(events)
