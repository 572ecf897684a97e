"""The bridge between the event loop and code that blocks."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from feinschliff.kit.context import current_request_id, request_context
from feinschliff.kit.threads import WORKERS, in_flight, offload, pull, stream


async def test_offload_runs_elsewhere_with_the_callers_context() -> None:
    with request_context("req-1"):
        thread, request_id = await offload(lambda: (threading.get_ident(), current_request_id()))
    assert thread != threading.get_ident()
    assert request_id == "req-1"


async def test_offload_raises_what_the_function_raises() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await offload(fail)
    assert in_flight() == 0


async def test_threads_are_bounded_and_all_work_gets_done() -> None:
    most, lock, running = 0, threading.Lock(), 0

    def work(number: int) -> int:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.002)
        with lock:
            running -= 1
        return number

    assert sorted(await asyncio.gather(*(offload(work, n) for n in range(200)))) == list(range(200))
    assert most <= WORKERS


class Items:
    """Numbers below `total`, noting when they are closed and by how many threads they were touched at once."""

    def __init__(self, total: int, fail_at: int = -1) -> None:
        self.closed = 0
        self._total = total
        self._fail_at = fail_at

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self._total):
                if number == self._fail_at:
                    raise OSError("torn")
                yield number
        finally:
            self.closed += 1


@pytest.mark.parametrize("total", [0, 1, 63, 64, 65, 1000])
async def test_stream_gives_all_items_in_order_and_closes(total: int) -> None:
    items = Items(total)
    assert [item async for item in stream(items)] == list(range(total))
    assert items.closed == 1


async def test_stream_passes_on_what_breaks() -> None:
    seen: list[int] = []

    async def consume() -> None:
        async for item in stream(Items(10, fail_at=5), batch=2):
            seen.append(item)  # noqa: PERF401 - what came before the break counts

    with pytest.raises(OSError, match="torn"):
        await consume()
    assert seen == [0, 1, 2, 3]


async def test_stream_left_early_closes_its_source() -> None:
    items = Items(1000)
    source = stream(items, batch=10)
    async for _ in source:
        break
    await source.aclose()
    assert items.closed == 1


async def test_stream_cancelled_while_a_thread_reads_closes_after_it() -> None:
    entered, release, closed = threading.Event(), threading.Event(), threading.Event()

    def slow() -> Iterator[int]:
        try:
            entered.set()
            release.wait(10)
            yield 1
        finally:
            closed.set()

    async def consume() -> None:
        async for _ in stream(slow()):
            pass

    task = asyncio.ensure_future(consume())
    await asyncio.to_thread(entered.wait, 5)
    task.cancel()
    await asyncio.wait({task}, timeout=0.05)
    assert not closed.is_set()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()


async def numbers(total: int, taken: list[int]) -> AsyncIterator[int]:
    for number in range(total):
        taken.append(number)
        yield number


async def test_pull_gives_all_items_to_a_thread_and_never_runs_ahead() -> None:
    taken: list[int] = []
    ahead = []

    def read(loop: asyncio.AbstractEventLoop) -> list[int]:
        got = []
        for item in pull(numbers(50, taken), loop):
            got.append(item)
            ahead.append(len(taken) - len(got))
        return got

    assert await offload(read, asyncio.get_running_loop()) == list(range(50))
    assert set(ahead) == {0}


async def test_pull_passes_on_what_the_async_side_raises() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("torn")

    got: list[int] = []
    with pytest.raises(OSError, match="torn"):
        await offload(lambda loop: got.extend(pull(broken(), loop)), asyncio.get_running_loop())
