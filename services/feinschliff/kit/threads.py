"""From the event loop to code that may block, and back: the only bridge that a door uses."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from typing import Generic, ParamSpec, TypeVar

WORKERS = 32  # enough for S3 and SQL waits of one room; each idle thread costs a few KiB

SETTLE_POLL_SECONDS = 0.01
P = ParamSpec("P")
T = TypeVar("T")
_END = object()


class _InFlight:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def add(self, change: int) -> None:
        with self._lock:
            self.count += change


_in_flight = _InFlight()


def in_flight() -> int:
    """How many offloaded calls still run."""
    return _in_flight.count


async def settle(timeout_seconds: float, hurry: asyncio.Event) -> None:
    """Returns once no offloaded call runs, the time is up, or there is no time."""
    until = asyncio.get_running_loop().time() + timeout_seconds
    while in_flight() and not hurry.is_set() and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(SETTLE_POLL_SECONDS)


async def offload(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs `fn` in a bounded pool of threads, with this task's context (request id, log fields).

    If the caller is cancelled the thread still finishes: what it does may have happened.
    """
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    return await loop.run_in_executor(_pool(), partial(context.run, partial(_counted, partial(fn, *args, **kwargs))))


async def stream(items: Iterable[T], *, batch: int = 64) -> AsyncIterator[T]:
    """Iterates a blocking iterable from the event loop, `batch` items per hop to a thread.

    However it ends, also by cancelling, the iterable is closed when no thread is inside it any more.
    """
    iterator = _Closing(items)
    try:
        while chunk := await offload(iterator.take, batch):
            for item in chunk:
                yield item
            if len(chunk) < batch:
                return
    finally:
        await offload(iterator.close)


def pull(items: AsyncIterator[T], loop: asyncio.AbstractEventLoop) -> Iterator[T]:
    """Iterates an async iterator of `loop` from a thread, one item at a time, so nothing piles up.

    What the async side raises, also its cancellation, is raised here.
    """
    while (item := asyncio.run_coroutine_threadsafe(_next(items), loop).result()) is not _END:
        yield item  # type: ignore[misc]


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WORKERS, thread_name_prefix="offload")


def _counted(fn: Callable[[], T]) -> T:
    _in_flight.add(1)
    try:
        return fn()
    finally:
        _in_flight.add(-1)


class _Closing(Generic[T]):
    """An iterator that one thread at a time takes from or closes."""

    def __init__(self, items: Iterable[T]) -> None:
        self._lock = threading.Lock()
        self._iterator = iter(items)

    def take(self, count: int) -> list[T]:
        with self._lock:
            return list(islice(self._iterator, count))

    def close(self) -> None:
        with self._lock:
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()


async def _next(items: AsyncIterator[T]) -> T | object:
    try:
        return await anext(items)
    except StopAsyncIteration:
        return _END
