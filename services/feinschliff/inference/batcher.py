"""Which request waits, which is read in, and which decodes: tenants in turns, within fixed limits.

What runs in the background has the engine while nobody else has a use for it.
"""

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

    @property
    def tenant(self) -> str:
        """On whose behalf."""
        ...

    @property
    def is_background(self) -> bool: ...


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine's batch.

    Args:
        rows_max: requests that are generated at once.
        queue_max: requests that wait for a place; as many again may wait in the background.
        cells_max: cached positions; a row always gets room for its longest answer.
        is_cache_by_row: each row takes the positions that it may need; else each takes those of the longest.
        prefill_tokens_per_step: prompt tokens read between two decode steps, so that long prompts delay others little.
            A prompt is cut at its multiples and nowhere else, so how it is read does not depend on the others.
    """

    rows_max: int
    queue_max: int
    cells_max: int
    prefill_tokens_per_step: int
    is_cache_by_row: bool = False


class Chunk(NamedTuple, Generic[W]):
    """Prompt tokens [start, stop) of a request, to be read in this step."""

    work: W
    start: int
    stop: int


class Turns(Generic[W]):
    """Requests that wait: tenants in turns, each one's in the order of arrival."""

    def __init__(self) -> None:
        self._of: dict[str, deque[W]] = {}  # the tenant whose turn it is first; nobody without a request

    def __len__(self) -> int:
        return sum(len(works) for works in self._of.values())

    def __iter__(self) -> Iterator[W]:
        for works in self._of.values():
            yield from works

    def add(self, work: W) -> None:
        self._of.setdefault(work.tenant, deque()).append(work)

    @property
    def first(self) -> W | None:
        return next((works[0] for works in self._of.values()), None)

    def take(self, work: W) -> None:
        """Takes the first one out; its tenant is behind the others now."""
        works = self._of.pop(work.tenant)
        works.remove(work)
        if works:
            self._of[work.tenant] = works

    def drop(self, work: W) -> None:
        """Takes one out that leaves; its tenant keeps its turn. One that is not there is ignored."""
        works = self._of.get(work.tenant, deque())
        if work in works:
            works.remove(work)
        if not works:
            self._of.pop(work.tenant, None)


class Batcher(Generic[W]):
    """The state of the batch; not for several threads at once. What is in the background is not counted."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: Turns[W] = Turns()
        self._background: deque[W] = deque()  # waits
        self._reading: W | None = None
        self._read_tokens = 0
        self._decoding: list[W] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return sum(not work.is_background for work in self._in_batch)

    @property
    def _in_batch(self) -> list[W]:
        return [*self._decoding, *([] if self._reading is None else [self._reading])]

    @property
    def is_idle(self) -> bool:
        return not (self._waiting or self._background or self._in_batch)

    def offer(self, work: W) -> bool:
        """Puts a request into the queue; False where the queue is full."""
        if work.is_background:
            if len(self._background) >= self._limits.queue_max:
                return False
            self._background.append(work)
            return True
        free_rows = self._limits.rows_max - self.running
        if len(self._waiting) >= self._limits.queue_max + free_rows:
            return False
        self._waiting.add(work)
        return True

    def in_the_way(self) -> list[W]:
        """What runs in the background while there is something else to do: to be ended before the next plan."""
        if not self._waiting and self.running == 0:
            return []
        return [work for work in self._in_batch if work.is_background]

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
        elif work in self._background:
            self._background.remove(work)
        else:
            self._waiting.drop(work)

    def __iter__(self) -> Iterator[W]:
        yield from self._decoding
        if self._reading is not None:
            yield self._reading
        yield from self._waiting
        yield from self._background

    def _next_to_read(self) -> W | None:
        """The one that is being read, or the next in turn; one that has no room yet is waited for, never overtaken."""
        if self._reading is not None:
            return self._reading
        work = self._waiting.first
        if work is not None and self._has_room_for(work):
            self._waiting.take(work)
            self._reading, self._read_tokens = work, 0
        elif work is None and self.running == 0 and self._background and self._has_room_for(self._background[0]):
            self._reading, self._read_tokens = self._background.popleft(), 0
        return self._reading

    def _has_room_for(self, work: W) -> bool:
        rows = len(self._decoding) + 1
        needs = [work.tokens_max, *(other.tokens_max for other in self._decoding)]
        cells = sum(needs) if self._limits.is_cache_by_row else rows * max(needs)
        return rows <= self._limits.rows_max and (rows == 1 or cells <= self._limits.cells_max)
