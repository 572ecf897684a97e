"""Work over the rows of a dataset version, several at a time, that goes on where it stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set
from contextlib import aclosing
from typing import NamedTuple, TypeVar

from feinschliff.evaluation.clients import Datasets, Row
from feinschliff.evaluation.resources import Split
from feinschliff.evaluation.work.failures import Fate, failure_of, fate_of, pause_seconds
from feinschliff.evaluation.work.keeping import Halted
from feinschliff.evaluation.work.limits import Limits
from feinschliff.evaluation.work.patience import Halt, Patience
from feinschliff.formats.report import Failure
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import Refusal

T = TypeVar("T")
Do = Callable[[int, Row], Awaitable[None]]


class Rows(NamedTuple):
    """Which rows: `total` of them, in their order."""

    dataset_version: str
    split: Split
    total: int


class RowWork:
    """How hard the rooms behind are asked, and how long an outage is waited out."""

    def __init__(self, datasets: Datasets, clock: Clock, limits: Limits) -> None:
        self._datasets = datasets
        self._clock = clock
        self._limits = limits

    async def each(self, rows: Rows, done: Set[int], do: Do) -> None:
        """Does every row whose position (from 1) is not done.

        Raises:
            Halted: the rows cannot be read, or `do` halts.
        """
        width = self._limits.concurrency
        queue: asyncio.Queue[tuple[int, Row] | None] = asyncio.Queue(width)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed(rows, done, queue, width))
                for _ in range(width):
                    group.create_task(_consume(queue, do))
        except* Halt as halts:
            raise Halted(next(halt.failure for halt in halts.exceptions if isinstance(halt, Halt))) from None

    def waiting(self) -> Patience:
        """For graders that ask; it raises Halt after a long outage."""
        return Patience(self._clock, self._limits.patience_seconds)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T | Failure:
        """What the call gives, or why it gives nothing however often it is made. Raises Halt after a long outage."""
        patience, attempt = Patience(self._clock, self._limits.patience_seconds), 0
        while True:
            try:
                return await call()
            except Refusal as refusal:
                fate = fate_of(refusal)
                attempt += 1
                if fate is Fate.GIVE_UP or (fate is Fate.RETRY and attempt >= self._limits.attempts):
                    return failure_of(refusal)
                if fate is Fate.WAIT:
                    patience.failed(refusal)
                await asyncio.sleep(pause_seconds(refusal, attempt - 1))

    async def _feed(self, rows: Rows, done: Set[int], queue: asyncio.Queue[tuple[int, Row] | None], width: int) -> None:
        """A broken stream is taken up where it broke."""
        position, attempt = 0, 0
        patience = Patience(self._clock, self._limits.patience_seconds)
        while position < rows.total:
            stream = self._datasets.read(rows.dataset_version, rows.split, start=position, limit=rows.total - position)
            try:
                async with aclosing(stream):
                    async for row in stream:
                        position += 1
                        attempt = 0
                        patience.succeeded()
                        if position not in done:
                            await queue.put((position, row))
            except Refusal as refusal:
                if fate_of(refusal) is Fate.GIVE_UP:
                    raise Halt(failure_of(refusal)) from refusal
                patience.failed(refusal)
                await asyncio.sleep(pause_seconds(refusal, attempt))
                attempt += 1
            else:
                if position < rows.total:
                    message = f"{rows.dataset_version} gave {position} rows; {rows.total} were announced."
                    raise Halt(Failure(reason="DATASET_ROWS_MISSING", message=message))
        for _ in range(width):
            await queue.put(None)


async def _consume(queue: asyncio.Queue[tuple[int, Row] | None], do: Do) -> None:
    while (work := await queue.get()) is not None:
        await do(*work)
