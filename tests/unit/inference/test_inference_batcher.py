"""First come, first served, within the limits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.inference.batcher import Batcher, Chunk, Limits


@dataclass(eq=False)
class Job:
    prompt_tokens: int
    answer_tokens: int = 10

    @property
    def tokens_max(self) -> int:
        return self.prompt_tokens + self.answer_tokens


def batcher(rows: int = 4, queue: int = 100, cells: int = 10_000, step: int = 16) -> Batcher[Job]:
    return Batcher(Limits(rows, queue, cells, step))


def fill(target: Batcher[Job], *jobs: Job) -> None:
    for job in jobs:
        assert target.offer(job)


def test_several_short_prompts_are_read_in_one_step() -> None:
    target, jobs = batcher(), [Job(5), Job(5), Job(5)]
    fill(target, *jobs)
    assert target.plan() == [Chunk(job, 0, 5) for job in jobs]
    assert (target.running, target.waiting) == (3, 0)


def test_a_long_prompt_is_read_in_parts_between_decode_steps() -> None:
    target, job = batcher(step=16), Job(40)
    fill(target, job)
    assert [target.plan() for _ in range(4)] == [[Chunk(job, 0, 16)], [Chunk(job, 16, 32)], [Chunk(job, 32, 40)], []]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_a_prompt_is_cut_at_the_same_places_whatever_else_waits(lengths: list[int]) -> None:
    target, jobs = batcher(rows=8), [Job(length) for length in lengths]
    fill(target, *jobs)
    chunks = []
    while found := target.plan():
        chunks += found
    for job in jobs:
        mine = [(chunk.start, chunk.stop) for chunk in chunks if chunk.work is job]
        assert mine == [(start, min(start + 16, job.prompt_tokens)) for start in range(0, job.prompt_tokens, 16)]
    assert [chunk.work for chunk in chunks if chunk.start == 0] == jobs


def test_rows_are_limited_and_a_leaver_makes_room_for_the_next_in_line() -> None:
    target, jobs = batcher(rows=2), [Job(4) for _ in range(4)]
    fill(target, *jobs)
    target.plan()
    assert list(target) == jobs
    assert (target.running, target.waiting) == (2, 2)
    target.remove(jobs[0])
    assert target.plan() == [Chunk(jobs[2], 0, 4)]


def test_a_row_joins_only_when_the_cache_has_room_for_the_longest_row_times_all() -> None:
    target = batcher(rows=8, cells=100)
    long, short = Job(30, answer_tokens=20), Job(4, answer_tokens=1)
    fill(target, short, long, short2 := Job(4, answer_tokens=1))
    assert [chunk.work for chunk in target.plan()] == [short, long]
    target.plan()
    assert target.waiting == 1
    target.remove(short)
    assert [chunk.work for chunk in target.plan()] == [short2]


def test_a_row_that_fills_the_cache_alone_still_runs() -> None:
    target, job = batcher(cells=10), Job(30)
    fill(target, job)
    assert target.plan()


@pytest.mark.parametrize("queue", [0, 1, 3])
def test_the_queue_is_bounded_behind_the_free_rows(queue: int) -> None:
    target = batcher(rows=2, queue=queue)
    fill(target, *(Job(3) for _ in range(2 + queue)))
    assert not target.offer(Job(3))
    target.plan()
    assert not target.offer(Job(3))
    target.remove(next(iter(target)))
    assert target.offer(Job(3))


@pytest.mark.parametrize("place", ["decoding", "reading", "waiting"])
def test_a_request_can_leave_from_anywhere(place: str) -> None:
    target = batcher(rows=2, step=16)
    jobs = {"decoding": Job(16), "reading": Job(40), "waiting": Job(5)}
    fill(target, *jobs.values())
    target.plan()
    target.plan()
    target.remove(jobs[place])
    assert jobs[place] not in list(target)
    while target.plan():
        pass
    assert set(target) == set(jobs.values()) - {jobs[place]}
    for job in list(target):
        target.remove(job)
    assert target.is_idle
