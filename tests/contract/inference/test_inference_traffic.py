"""Shares of traffic and copies out of traffic, over real gRPC."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc
import pytest

from feinschliff.kit.errors import Conflict, Exhausted, Invalid, NotFound, Unavailable
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.site import LINGERING, PARENT, Site, chat_request, open_site, refusing
from tests.contract.inference.test_inference_deployments import replica
from tests.support.waiting import eventually_async

D = f"{PARENT}/deployments/d"


async def set_traffic(site: Site, etag: str = "", reason: str = "", **weights: float) -> pb.Deployment:
    request = pb.SetTrafficRequest(name=D, weights=weights, etag=etag, reason=reason)
    changed: pb.Deployment = await refusing(site.deployments.SetTraffic(request))
    return changed


async def drain(site: Site, **fields: object) -> pb.ReplicaState:
    state: pb.ReplicaState = await refusing(site.deployments.Drain(pb.DrainRequest(name=D, **fields)))  # type: ignore[arg-type]
    return state


async def test_shares_move_at_once_with_their_reason_in_history_and_log(
    site: Site, adapters: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = site.register(adapters["one"]), site.register(adapters["two"], 2)
    before = await site.create(routes={"a": one, "b": two})
    with caplog.at_level(logging.INFO, "feinschliff"):
        after = await set_traffic(site, etag=before.etag, reason="Two is better.", b=1)
    assert {(await site.chat(D)).identity.model_version for _ in range(4)} == {two}
    assert (after.state, after.etag != before.etag) == (pb.Deployment.STATE_READY, True)
    assert [dict(change.weights) for change in after.traffic_changes] == [{"a": 0.0, "b": 1.0}]
    assert after.traffic_changes[0].reason == "Two is better."
    assert after.traffic_changes[0].origin == pb.TrafficChange.ORIGIN_CALLER
    (line,) = [record for record in caplog.records if record.message == "traffic changed"]
    assert (line.reason, line.deployment) == ("Two is better.", D)  # type: ignore[attr-defined]
    with pytest.raises(Conflict):
        await set_traffic(site, etag=before.etag, a=1)
    with pytest.raises(Invalid) as unknown:
        await set_traffic(site, c=1)
    assert unknown.value.fields[0].reason == "ROUTE_UNKNOWN"
    await set_traffic(site, a=0)
    assert (await site.chat(D)).identity.model_version == site.base


async def test_a_drained_copy_lets_answers_end_and_takes_no_more_until_it_is_put_back(site: Site) -> None:
    await site.create()
    await site.create("e")
    call = site.chats.ChatStream(pb.ChatStreamRequest(chat=chat_request(D, **LINGERING)))
    events = aiter(call)
    await anext(events)
    with pytest.raises(NotFound) as unknown:
        await drain(site, replica_id="another")
    assert unknown.value.reason == "REPLICA_UNKNOWN"
    held = (await drain(site)).replicas[0]
    assert (held.serving, held.draining, held.running_calls + held.waiting_calls) == (False, True, 1)
    refusal = await site.refused(D)
    assert isinstance(refusal, Unavailable)
    assert (refusal.reason, refusal.retry_after_seconds) == ("REPLICA_DRAINING", 1.0)
    assert await site.chat(f"{PARENT}/deployments/e")
    rest = [event async for event in events]
    assert rest[-1].end.usage.completion_tokens == LINGERING["max_tokens"]
    assert (await replica(site)).running_calls == 0
    held = (await drain(site, undo=True)).replicas[0]
    assert (held.serving, held.draining) == (True, False)
    assert await site.chat(D)


async def test_answers_that_take_longer_than_a_drain_allows_are_ended_by_name(tmp_path: Path, tiny_model: Path) -> None:
    async with open_site(tmp_path, tiny_model, inference_turn_seconds=0.02) as site:
        await site.create()
        request = pb.ChatStreamRequest(chat=chat_request(D, max_tokens=450))
        calls = [site.chats.ChatStream(request) for _ in range(4)]
        for call in calls:
            await call.read()
        await drain(site, timeout_seconds=0.001)
        for call in calls:
            with pytest.raises(Unavailable) as ended:
                await refusing(read_all(call))
            assert ended.value.reason == "REPLICA_DRAINED"

        async def idle() -> bool:
            return (await replica(site)).running_calls == 0

        await eventually_async(idle, 20)


async def read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_project_has_so_many_calls_at_once_and_a_deployment_may_have_its_own(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with open_site(tmp_path, tiny_model, inference_project_requests_max=1) as site:
        await site.create()
        await site.create("own", requests_max=2)
        call = site.chats.ChatStream(pb.ChatStreamRequest(chat=chat_request(D, max_tokens=450)))
        await call.read()
        refusal = await site.refused(D)
        assert isinstance(refusal, Exhausted)
        assert (refusal.reason, refusal.metadata["limited"]) == ("PROJECT_LIMIT", PARENT)
        assert refusal.retry_after_seconds
        assert await site.chat(f"{PARENT}/deployments/own")
        call.cancel()

        async def free() -> bool:
            return (await replica(site)).running_calls == 0

        await eventually_async(free, 20)
        assert await site.chat(D)
