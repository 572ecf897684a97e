"""New versions beside old ones, over real gRPC: callers stay with one, a bad one goes, shadows stay unseen."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from feinschliff.inference.engine import Finish
from feinschliff.inference.engines.row import Row
from feinschliff.kit.errors import Internal, Invalid
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.site import PARENT, Site, chat_request, refusing
from tests.support.waiting import eventually_async

D = f"{PARENT}/deployments/d"


def break_answers(monkeypatch: pytest.MonkeyPatch, adapter_digest: str) -> None:
    """Every answer of this adapter fails on the way."""
    accept = Row.accept

    def failing(row: Row, *said: Any) -> None:
        if row.request.adapter_digest == adapter_digest:
            row.finish(Finish.FAILED, error="broken by the test")
        else:
            accept(row, *said)

    monkeypatch.setattr(Row, "accept", failing)


async def answered_by(site: Site, user: str) -> str:
    """The version that answers a user; `broken` where none does."""
    request = chat_request(D, max_tokens=2)
    request.user = user
    try:
        answer: pb.ChatResponse = await refusing(site.chats.Chat(request, timeout=60))
    except Internal:
        return "broken"
    return answer.identity.model_version


async def ask(site: Site, users: int) -> list[str]:
    return await asyncio.gather(*(answered_by(site, f"user {number}") for number in range(users)))


async def test_users_stay_on_their_route_until_a_bad_canary_is_rolled_back(
    site: Site, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = site.register(adapters["one"]), site.register(adapters["two"], 2)
    break_answers(monkeypatch, site.digest_of(bad))
    policy = pb.CanaryPolicy(route="new", calls_min=50)
    await site.create(routes={"old": good, "new": bad}, canary=policy)
    first = await ask(site, 40)
    assert set(first) == {good, "broken"}
    assert await ask(site, 40) == first

    async def rolled_back() -> pb.Deployment | None:
        await ask(site, 40)
        deployment = await site.get()
        return deployment if deployment.routes[1].HasField("rolled_back") else None

    deployment = await eventually_async(rolled_back, 60, "the canary to go")
    assert deployment is not None
    assert [route.weight for route in deployment.routes] == [1.0, 0.0]
    assert deployment.routes[1].rolled_back.cause == "errors"
    assert deployment.routes[1].rolled_back.reason in deployment.traffic_changes[0].reason
    assert deployment.traffic_changes[0].origin == pb.TrafficChange.ORIGIN_ROLLBACK
    assert site.metric("canary_rollbacks_total", cause="errors") == 1
    assert set(await ask(site, 40)) == {good}
    again = pb.SetTrafficRequest(name=D, weights={"old": 1, "new": 1}, reason="Once more.")
    changed = await site.deployments.SetTraffic(again)
    assert not changed.routes[1].HasField("rolled_back")


async def test_a_shadow_gets_copies_of_the_calls_and_never_answers(site: Site, adapters: dict[str, Path]) -> None:
    one, two = site.register(adapters["one"]), site.register(adapters["two"], 2)
    routes = [pb.Route(id="a", model_version=one), pb.Route(id="b", model_version=two, shadow=True)]
    request = pb.CreateDeploymentRequest(
        parent=PARENT,
        deployment_id="d",
        deployment=pb.Deployment(base_model=site.base, precision=pb.Deployment.PRECISION_FP32, routes=routes),
    )
    await site.deployments.CreateDeployment(request)
    await site.wait_for("d", pb.Deployment.STATE_READY)
    alone = await site.chat(one, max_tokens=20)
    assert site.metric("shadow_requests_total", outcome="answered") == 0
    answer = await site.chat(D, max_tokens=20)
    assert (answer.identity.model_version, answer.message) == (one, alone.message)

    async def copied() -> bool:
        return site.metric("shadow_requests_total", outcome="answered") == 1

    await eventually_async(copied, 20, "the shadow to answer")
    assert site.metric("requests_total", finish="length") + site.metric("requests_total", finish="stop") == 2


async def test_a_policy_must_name_a_route_that_takes_calls(site: Site, adapters: dict[str, Path]) -> None:
    version = site.register(adapters["one"])
    with pytest.raises(Invalid) as refused:
        await site.create(routes={"a": version}, canary=pb.CanaryPolicy(route="b"), wait=False)
    assert refused.value.fields[0].field == "deployment.canary.route"
