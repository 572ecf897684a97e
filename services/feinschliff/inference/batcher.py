"""Which request waits, which is read in, and which decodes: first come, first served, within fixed limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar


class Work(Protocol):
    """A request as far as its place in the batch is concerned."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def tokens_max(self) -> int:
        """Prompt and longest answer together."""
        ...


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine's batch.

    Args:
        rows_max: requests that are generated at once.
        queue_max: requests that wait for a place.
        cells_max: cached positions, rows x the longest row; a row always gets room for its longest answer.
        prefill_tokens_per_step: prompt tokens read between two decode steps, so that long prompts delay others little.
            A prompt is cut at its multiples and nowhere else, so how it is read does not depend on the others.
    """

    rows_max: int
    queue_max: int
    cells_max: int
    prefill_tokens_per_step: int


class Chunk(NamedTuple, Generic[W]):
    """Prompt tokens [start, stop) of a request, to be read in this step."""

    work: W
    start: int
    stop: int


class Batcher(Generic[W]):
    """The state of the batch; not for several threads at once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[W] = deque()
        self._reading: W | None = None
        self._read_tokens = 0
        self._decoding: list[W] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._decoding) + (self._reading is not None)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and self.running == 0

    def offer(self, work: W) -> bool:
        """Puts a request at the end of the queue; False where the queue is full."""
        free_rows = self._limits.rows_max - self.running
        if len(self._waiting) >= self._limits.queue_max + free_rows:
            return False
        self._waiting.append(work)
        return True

    def plan(self) -> list[Chunk[W]]:
        """The prompt chunks to read before the next decode step; moves requests from the queue into the batch."""
        chunks: list[Chunk[W]] = []
        budget = self._limits.prefill_tokens_per_step
        while budget > 0 and (work := self._next_to_read()) is not None:
            start = self._read_tokens
            stop = min(work.prompt_tokens, start + self._limits.prefill_tokens_per_step)
            chunks.append(Chunk(work, start, stop))
            budget -= stop - start
            self._read_tokens = stop
            if stop == work.prompt_tokens:
                self._decoding.append(work)
                self._reading = None
        return chunks

    def remove(self, work: W) -> None:
        """Takes a request out, wherever it is."""
        if work is self._reading:
            self._reading = None
        elif work in self._decoding:
            self._decoding.remove(work)
        elif work in self._waiting:
            self._waiting.remove(work)

    def __iter__(self) -> Iterator[W]:
        yield from self._decoding
        if self._reading is not None:
            yield self._reading
        yield from self._waiting

    def _next_to_read(self) -> W | None:
        if self._reading is None and self._waiting and self._has_room_for(self._waiting[0]):
            self._reading, self._read_tokens = self._waiting.popleft(), 0
        return self._reading

    def _has_room_for(self, work: W) -> bool:
        rows = len(self._decoding) + 1
        longest = max([work.tokens_max, *(other.tokens_max for other in self._decoding)])
        return rows <= self._limits.rows_max and (rows == 1 or rows * longest <= self._limits.cells_max)
