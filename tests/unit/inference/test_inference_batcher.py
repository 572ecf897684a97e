"""Tenants in turns, each one's requests as they came, within the limits."""

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
    tenant: str = ""
    is_background: bool = False

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


def test_tenants_take_turns_and_each_ones_requests_keep_their_order() -> None:
    target = batcher(rows=8)
    many, few = [Job(4, tenant="many") for _ in range(4)], [Job(4, tenant="few") for _ in range(2)]
    late = Job(4, tenant="late")
    fill(target, *many, *few, late)
    assert [chunk.work for chunk in target.plan()] == [many[0], few[0], late, many[1]]
    assert [chunk.work for chunk in target.plan()] == [few[1], many[2], many[3]]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.integers(1, 3))
def test_nobody_is_starved_and_nobody_overtakes_within_a_tenant(tenants: list[str], rows: int) -> None:
    target, jobs = batcher(rows=rows, step=8), [Job(8, tenant=tenant) for tenant in tenants]
    fill(target, *jobs)
    begun: list[Job] = []
    while not target.is_idle:
        begun += [chunk.work for chunk in target.plan()]
        target.remove(next(iter(target)))
    assert [sorted(map(id, begun))] == [sorted(map(id, jobs))]
    for tenant in set(tenants):
        assert [job for job in begun if job.tenant == tenant] == [job for job in jobs if job.tenant == tenant]
    for place, job in enumerate(begun):
        waits = sum(other.tenant == job.tenant for other in begun[:place])
        others = {other.tenant for other in begun[:place]} - {job.tenant}
        assert place <= waits + len(others) * (waits + 1), "each other tenant had one turn more at most"


def test_one_that_has_no_room_yet_is_not_overtaken_by_other_tenants() -> None:
    target = batcher(rows=8, cells=100)
    long, short = Job(30, answer_tokens=20, tenant="a"), Job(4, answer_tokens=1, tenant="b")
    fill(target, first := Job(30, answer_tokens=21, tenant="c"))
    target.plan()
    target.plan()
    fill(target, long, short)
    assert target.plan() == []
    target.remove(first)
    assert [chunk.work for chunk in target.plan()] == [long]


def test_what_is_in_the_background_runs_only_while_there_is_nothing_else() -> None:
    target = batcher(rows=2, queue=1)
    background, work = [Job(4, is_background=True) for _ in range(2)], Job(4)
    assert target.offer(background[0])
    assert not target.offer(background[1]), "as many may wait as in the queue"
    assert [chunk.work for chunk in target.plan()] == [background[0]]
    assert (target.running, target.waiting, target.is_idle) == (0, 0, False)
    assert target.in_the_way() == []
    assert target.offer(background[1])
    fill(target, work)
    assert target.in_the_way() == [background[0]]
    target.remove(background[0])
    assert [chunk.work for chunk in target.plan()] == [work]
    assert target.plan() == []
    target.remove(work)
    assert [chunk.work for chunk in target.plan()] == [background[1]]


def test_what_is_in_the_background_takes_no_place_in_the_queue() -> None:
    target = batcher(rows=1, queue=1)
    assert target.offer(Job(3, is_background=True))
    target.plan()
    fill(target, Job(3), Job(3))
    assert not target.offer(Job(3))
    assert target.waiting == 2
