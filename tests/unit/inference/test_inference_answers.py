"""How answers are counted: by what became of them for their caller."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import pytest

from feinschliff.inference.answers import Answers
from feinschliff.inference.engine import Delta, Done, Finish
from feinschliff.inference.guards.guard import Action, Model, Words
from feinschliff.kit.errors import Exhausted, Internal, Refusal, Unavailable
from feinschliff.kit.metrics import Metrics
from tests.unit.inference.test_inference_guards import Judge, answer, guard, over

OUTCOMES = ("stop", "length", "content_filter", "cancelled", "refused", "failed")


async def counted(events: AsyncGenerator[Delta | Done], *, leave: bool = False) -> dict[str, float]:
    metrics = Metrics("inference")
    with suppress(Refusal):
        async with aclosing(Answers(metrics).counted(events)) as heard:
            async for _ in heard:
                if leave:
                    break
    name = "feinschliff_inference_requests_total"
    return {one: count for one in OUTCOMES if (count := metrics.value(name, finish=one))}


async def ending(end: Done | Refusal) -> AsyncGenerator[Delta | Done]:
    yield Delta("a")
    if isinstance(end, Refusal):
        raise end
    yield end


@pytest.mark.parametrize("pieces", [("a ", "stop", " now", ""), ("a stop",)], ids=["on the way", "at the end"])
async def test_what_a_guard_ends_is_no_cancelled_answer(pieces: tuple[str, ...]) -> None:
    guarded, _ = over([guard(Words(words=("stop",)))])
    assert await counted(guarded.watch(answer(*pieces))) == {"content_filter": 1}


async def test_what_a_model_judges_is_counted_once_it_has_judged() -> None:
    guarded, _ = over([guard(Model(model="m", labels=("bad",), threshold=0.1), Action.BLOCK)])
    assert await counted(guarded.watch(answer("bad", ""))) == {"content_filter": 1}
    down, _ = over([guard(Model(model="m", labels=("bad",), threshold=0.1), Action.BLOCK)], Judge(is_down=True))
    assert await counted(down.watch(answer("bad", ""))) == {"failed": 1}


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (Done(Finish.STOP, 2), "stop"),
        (Done(Finish.LENGTH, 2), "length"),
        (Exhausted("QUEUE_FULL", "full", retry_after_seconds=1), "refused"),
        (Internal("GENERATION_FAILED", "broken"), "failed"),
        (Unavailable("REPLICA_DRAINED", "gone", retry_after_seconds=1), "cancelled"),
    ],
)
async def test_each_answer_counts_once_by_how_it_ended(end: Done | Refusal, outcome: str) -> None:
    assert await counted(ending(end)) == {outcome: 1}


async def test_an_answer_that_its_caller_leaves_is_cancelled() -> None:
    assert await counted(ending(Done(Finish.STOP, 2)), leave=True) == {"cancelled": 1}
