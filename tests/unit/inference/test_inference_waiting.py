"""A call waits for what is on its way, within its deadline, and only so many do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import cast

import pytest

from feinschliff.inference.callers import Caller
from feinschliff.inference.life import Deployment, State, Version
from feinschliff.inference.models import Models, Patience
from feinschliff.inference.observed import Observations
from feinschliff.inference.traffic import Traffic
from feinschliff.inference.view import View
from feinschliff.kit.errors import NotFound, Refusal, Unavailable, WrongState
from feinschliff.kit.watch import Wake
from tests.unit.inference.builders import BASE, MODEL, PROJECT, deployment, ready, version
from tests.unit.inference.engines import HandEngine
from tests.unit.inference.test_inference_pool import Bench

D, V1, V2 = f"{PROJECT}/deployments/d", f"{MODEL}/versions/1", f"{MODEL}/versions/2"
ROUTES = {"a": (V1, ready(1)), "b": (V2, ready(2))}


class Waiting(Bench):
    """Models over a pool, with a deployment that a test moves on."""

    def __init__(self, waiting_max: int = 4, wait_seconds_max: float = 10.0, project_requests_max: int = 0) -> None:
        super().__init__(idle_seconds=60)
        self.known = {V1: version(1)}
        self.view, self.wake, self.traffic = (
            View(),
            Wake(),
            Traffic(self.clock, project_requests_max=project_requests_max),
        )
        self.models = Models(
            self.pool,
            self.view,
            self.view.all,
            self,  # type: ignore[arg-type]  # the registry, as far as it is asked
            self.wake,
            self.traffic,
            Observations(self.clock),
            Patience(wait_seconds_max, waiting_max),
        )
        self.show(deployment(state=State.LOADING))

    def serves_on_two_engines(self) -> tuple[HandEngine, HandEngine]:
        """The deployments `d` on vLLM and `e` on our own engine, of one base; both load on demand."""
        for engine in ("vllm", "transformers"):
            self.load_base(engine=engine)
        self.show(deployment("d", engine="vllm", on_demand=True))
        self.show(deployment("e", on_demand=True))
        vllm, ours = self.loader.engines
        return vllm, ours

    def show(self, found: Deployment) -> None:
        self.view.put(found)
        self.wake.notify()

    def lookup(self, name: str) -> Version:
        """What the registry says."""
        return self.known[name]

    def become_ready(self) -> None:
        self.load_base()
        self.show(deployment())

    async def refused(self, model: str = D, seconds_left: float | None = None) -> Refusal:
        with pytest.raises(Refusal) as caught:
            await self.models.grant(model, seconds_left=seconds_left)
        return caught.value


async def test_a_call_waits_until_its_model_is_loaded() -> None:
    bench = Waiting()
    granting = [asyncio.ensure_future(bench.models.grant(D, seconds_left=5)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(one.done() for one in granting)
    await asyncio.to_thread(bench.become_ready)
    assert [one.deployment.name for one in await asyncio.gather(*granting)] == [D] * 3


async def test_a_call_is_told_within_its_deadline_that_it_waited_in_vain() -> None:
    began = time.monotonic()
    refusal = await Waiting().refused(seconds_left=0.2)
    assert isinstance(refusal, Unavailable)
    assert refusal.reason == "MODEL_LOADING"
    assert 0.1 < time.monotonic() - began < 5


async def test_a_call_without_a_deadline_waits_as_long_as_the_setting_says() -> None:
    assert (await Waiting(wait_seconds_max=0.1).refused()).reason == "MODEL_LOADING"


async def test_more_calls_than_may_wait_are_refused_at_once() -> None:
    bench = Waiting(waiting_max=2)
    granting = [asyncio.ensure_future(bench.models.grant(D, seconds_left=30)) for _ in range(2)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        assert (await bench.refused(seconds_left=30)).reason == "MODEL_LOADING"
    await asyncio.to_thread(bench.become_ready)
    await asyncio.gather(*granting)
    assert await bench.models.grant(D, seconds_left=30)


async def test_a_call_that_waits_hears_at_once_that_loading_failed() -> None:
    bench = Waiting()
    waiting = asyncio.ensure_future(bench.refused(seconds_left=30))
    await asyncio.sleep(0.05)
    bench.show(deployment(state=State.FAILED))
    async with asyncio.timeout(5):
        refusal = await waiting
    assert isinstance(refusal, WrongState)
    assert refusal.reason == "MODEL_NOT_LOADED"


async def test_what_is_not_on_its_way_is_refused_without_waiting() -> None:
    bench = Waiting()
    async with asyncio.timeout(5):
        assert (await bench.refused("hf:org/name", seconds_left=30)).reason == "MODEL_NOT_LOADED"
        assert (await bench.refused("gpt-4", seconds_left=30)).reason == "MODEL_UNKNOWN"


async def test_a_drained_deployment_gives_its_lease_back_and_refuses() -> None:
    bench = Waiting()
    await asyncio.to_thread(bench.become_ready)
    bench.traffic.drain(deployment(), 60)
    assert (await bench.refused(seconds_left=5)).reason == "REPLICA_DRAINING"
    assert bench.pool.unload_base(bench.pool.bases()[0]), "no lease is left"


async def test_a_call_for_a_base_is_its_own_projects_whoever_else_has_it_loaded() -> None:
    bench = Waiting()
    await asyncio.to_thread(bench.become_ready)
    bench.show(deployment("theirs", project="other"))
    granted = await bench.models.grant(BASE, seconds_left=5, caller=Caller("projects/other"))
    assert (granted.deployment.project, granted.lease.call.tenant) == ("other", "other")
    granted = await bench.models.grant(BASE, seconds_left=5, caller=Caller(PROJECT))
    assert (granted.deployment.name, granted.lease.call.tenant) == (D, "default")
    for caller, reason in ((Caller("projects/third"), "MODEL_NOT_LOADED"), (Caller(), "PROJECT_NEEDED")):
        with pytest.raises(WrongState) as refused:
            await bench.models.grant(BASE, seconds_left=5, caller=caller)
        assert refused.value.reason == reason


async def test_whether_a_model_is_ready_is_seen_without_a_place_a_lease_or_a_use() -> None:
    bench = Waiting(project_requests_max=1)
    key = await asyncio.to_thread(bench.load_base)
    bench.show(deployment(on_demand=True, routes={"a": (V1, ready(1))}, weights={"a": 0}))
    assert not await bench.models.is_ready(V1)
    await asyncio.to_thread(bench.on_demand, key, 1)
    taken = await bench.models.grant(D, seconds_left=5)
    assert (await bench.refused(seconds_left=5)).reason == "PROJECT_LIMIT"
    assert [await bench.models.is_ready(model) for model in (D, V1, BASE)] == [True] * 3
    assert (await bench.models.at_once(D)).lease.engine is taken.lease.engine
    with pytest.raises(NotFound):
        await bench.models.is_ready("projects/default/deployments/no")
    bench.clock.advance(3600)
    await bench.models.is_ready(V1)
    await asyncio.to_thread(bench.pool.tidy)
    assert not await bench.models.is_ready(V1), "a look is no use: idle adapters go"
    bench.traffic.drain(deployment(), 60)
    assert not await bench.models.is_ready(D)


async def test_only_calls_that_shares_decided_about_are_watched() -> None:
    bench = Waiting()
    key = await asyncio.to_thread(bench.load_base)
    for number in (1, 2):
        await asyncio.to_thread(bench.load_adapter, key, number)
    bench.show(deployment(routes=ROUTES))
    by_share = await bench.models.grant(D, seconds_left=5, caller=Caller(sticky="user 1"))
    again = await bench.models.grant(D, seconds_left=5, caller=Caller(sticky="user 1"))
    by_name = await bench.models.grant(V1, seconds_left=5)
    assert by_share.version == again.version
    assert (by_share.lease.call.watch is None, by_name.lease.call.watch is None) == (False, True)
    assert by_share.lease.call.tenant == "default"


async def test_a_version_is_loaded_on_demand_where_it_can_be_computed() -> None:
    bench = Waiting()
    vllm, ours = await asyncio.to_thread(bench.serves_on_two_engines)
    bench.known[V1] = version(1).model_copy(update={"adaptation": "dora"})
    granted = await bench.models.grant(V1, seconds_left=5)
    assert (granted.lease.engine, vllm.loaded) == (ours, set())
    bench.show(deployment("e", on_demand=False))
    assert (await bench.refused(V1, seconds_left=5)).reason == "ENGINE_UNSERVED"


@pytest.mark.parametrize("reason", ["ADAPTER_UNSUPPORTED", "ENGINE_LOST"])
async def test_what_one_engine_does_not_load_another_one_may(reason: str) -> None:
    bench = Waiting()
    vllm, ours = await asyncio.to_thread(bench.serves_on_two_engines)
    vllm.errors = [WrongState(reason, "no")]
    for _ in range(2):
        assert (await bench.models.grant(V1, seconds_left=5)).lease.engine is ours
    assert not vllm.errors
    bench.known[V2], vllm.errors, ours.errors = version(2), [WrongState("BROKEN", "no")], []
    assert (await bench.refused(V2, seconds_left=5)).reason == "BROKEN"
    assert version(2).adapter_digest not in ours.loaded


async def test_of_several_that_serve_a_base_one_that_can_and_is_up_answers() -> None:
    bench = Waiting()
    vllm, ours = await asyncio.to_thread(bench.serves_on_two_engines)
    vllm.facts = replace(vllm.facts, dimensions=())

    async def answering(*, needs_vectors: bool = False) -> HandEngine:
        granted = await bench.models.grant(BASE, seconds_left=5, needs_vectors=needs_vectors)
        return cast(HandEngine, granted.lease.engine)

    assert [await answering(), await answering(needs_vectors=True)] == [vllm, ours]
    vllm.is_up = False
    assert [await answering(), await answering(needs_vectors=True)] == [ours, ours]
    vllm.is_up, ours.is_up = True, False
    assert [await answering(), await answering(needs_vectors=True)] == [vllm, ours]


async def test_a_model_whose_server_is_away_is_not_ready() -> None:
    bench = Waiting()
    vllm, ours = await asyncio.to_thread(bench.serves_on_two_engines)
    vllm.is_up = False
    assert [await bench.models.is_ready(model) for model in (D, BASE)] == [False, True]
    ours.is_up = False
    assert not await bench.models.is_ready(BASE)


async def test_vectors_of_a_version_on_demand_come_from_an_engine_that_gives_them() -> None:
    bench = Waiting()
    vllm, ours = await asyncio.to_thread(bench.serves_on_two_engines)
    vllm.facts = replace(vllm.facts, dimensions=())
    assert (await bench.models.grant(V1, seconds_left=5)).lease.engine is vllm
    assert (await bench.models.grant(V1, seconds_left=5, needs_vectors=True)).lease.engine is ours
