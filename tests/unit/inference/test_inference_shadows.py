"""Copies for shadow routes: bounded, in the background, counted, and of no consequence for the call."""

from __future__ import annotations

import logging

import pytest

from feinschliff.inference.engine import Abort, Delta, Done, Emit, Finish, GenerationRequest
from feinschliff.inference.life import RouteState
from feinschliff.inference.models import Granted
from feinschliff.inference.pool import BaseKey
from feinschliff.inference.shadows import Shadows, shadows_of
from feinschliff.kit.errors import Exhausted
from tests.unit.inference.builders import MODEL, deployment, ready, version
from tests.unit.inference.test_inference_pool import Bench

V1, V2 = f"{MODEL}/versions/1", f"{MODEL}/versions/2"
SHADOWED = deployment(routes={"a": (V1, ready(1)), "b": (V2, ready(2))}, shadows=["b"])
REQUEST = GenerationRequest([1, 2, 3], adapter_digest="sha256:m1", max_tokens=500, temperature=0.5, seed=7)


class Shadowing(Bench):
    """A loaded deployment with a shadow route, on an engine that keeps what it is asked to generate."""

    def __init__(self, copies_max: int = 2) -> None:
        super().__init__()
        self.key: BaseKey = self.load_base()
        for number in (1, 2):
            self.load_adapter(self.key, number)
        self.shadows = Shadows(self.pool, self.metrics, copies_max=copies_max)
        self.copies: list[tuple[GenerationRequest, Emit]] = []
        self.error: Exception | None = None
        self.loader.engines[0].generate = self._generate  # type: ignore[method-assign]

    def _generate(self, request: GenerationRequest, emit: Emit) -> Abort:
        if self.error is not None:
            raise self.error
        self.copies.append((request, emit))
        return lambda: None

    def call(self) -> None:
        """One call, from its lease to its end."""
        lease, before = self.pool.acquire(self.key, "sha256:m1"), self.begun
        assert lease is not None
        self.shadows.copy_after(Granted(lease, SHADOWED, version(1)), REQUEST)
        assert self.begun == before, "a copy waits for the end of its call"
        lease.give_back()

    @property
    def begun(self) -> int:
        return len(self.copies)

    def counted(self, outcome: str) -> float:
        return self.metrics.value("feinschliff_inference_shadow_requests_total", outcome=outcome)


@pytest.fixture
def bench() -> Shadowing:
    return Shadowing()


def test_a_shadow_gets_the_same_call_in_the_background_once_it_has_ended(bench: Shadowing) -> None:
    bench.call()
    ((copied, _),) = bench.copies
    assert (copied.adapter_digest, copied.is_background) == ("sha256:m2", True)
    assert (copied.prompt_ids, copied.temperature, copied.seed) == ([1, 2, 3], 0.5, 7)
    assert copied.max_tokens == 500


def test_what_a_shadow_answers_is_counted_and_noted_without_its_text(
    bench: Shadowing, caplog: pytest.LogCaptureFixture
) -> None:
    bench.call()
    ((_, emit),) = bench.copies
    with caplog.at_level(logging.INFO, "feinschliff"):
        emit(Delta("secret "))
        assert not bench.pool.unload_adapter(bench.key, "sha256:m2"), "it runs"
        emit(Done(Finish.STOP, 2, "words"))
    assert bench.counted("answered") == 1
    assert bench.pool.unload_adapter(bench.key, "sha256:m2")
    (line,) = [record for record in caplog.records if record.message == "shadow answered"]
    assert (line.route, line.model_version, line.completion_tokens) == ("b", V2, 2)  # type: ignore[attr-defined]
    assert "secret" not in str(vars(line))


@pytest.mark.parametrize(("finish", "outcome"), [(Finish.CANCELLED, "dropped"), (Finish.FAILED, "failed")])
def test_a_copy_that_had_to_make_room_is_dropped_and_one_that_broke_failed(
    bench: Shadowing, finish: Finish, outcome: str
) -> None:
    bench.call()
    bench.copies[0][1](Done(finish, 0))
    assert bench.counted(outcome) == 1


def test_more_copies_than_may_run_are_dropped(bench: Shadowing) -> None:
    for _ in range(3):
        bench.call()
    assert (bench.begun, bench.counted("dropped")) == (2, 1)
    bench.copies[0][1](Done(Finish.STOP, 1))
    bench.call()
    assert bench.begun == 3


@pytest.mark.parametrize(
    ("error", "outcome"), [(Exhausted("QUEUE_FULL", "Full."), "dropped"), (RuntimeError("broken"), "failed")]
)
def test_an_engine_that_refuses_a_copy_or_breaks_does_not_touch_the_call(
    bench: Shadowing, error: Exception, outcome: str
) -> None:
    bench.error = error
    for _ in range(3):
        bench.call()
    assert bench.counted(outcome) == 3
    assert bench.pool.unload_base(bench.key), "every lease is back"


def test_only_shadows_that_are_loaded_get_copies(bench: Shadowing) -> None:
    lease = bench.pool.acquire(bench.key, "")
    assert lease is not None
    loading = ready(2).model_copy(update={"state": RouteState.LOADING})
    unloaded = deployment(routes={"a": (V1, ready(1)), "b": (V2, loading)}, shadows=["b"])
    assert shadows_of(Granted(lease, unloaded, None)) == []
    assert shadows_of(Granted(lease, deployment(routes={"a": (V1, ready(1))}), None)) == []
    assert [shadow.route for shadow in shadows_of(Granted(lease, SHADOWED, None))] == ["b"]
