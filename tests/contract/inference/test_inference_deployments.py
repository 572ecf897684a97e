"""Deployments over real gRPC: what is wanted is loaded, followed, shared, and freed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from feinschliff.kit.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    NotFound,
    Refusal,
    Unavailable,
    Unserved,
    WrongState,
)
from feinschliff.v1 import inference_pb2 as pb
from feinschliff.v1 import registry_pb2
from tests.contract.inference.site import LINGERING, PARENT, Site, chat_request, open_site, refusing
from tests.support.waiting import eventually_async

D = f"{PARENT}/deployments/d"
READY, DEGRADED, FAILED = pb.Deployment.STATE_READY, pb.Deployment.STATE_DEGRADED, pb.Deployment.STATE_FAILED


async def update(site: Site, *paths: str, etag: str = "", **fields: Any) -> pb.Deployment:
    deployment = pb.Deployment(name=D, etag=etag, **fields)
    request = pb.UpdateDeploymentRequest(deployment=deployment, update_mask=FieldMask(paths=paths))
    changed: pb.Deployment = await refusing(site.deployments.UpdateDeployment(request))
    return changed


async def delete(site: Site, name: str = "d", etag: str = "") -> None:
    request = pb.DeleteDeploymentRequest(name=f"{PARENT}/deployments/{name}", etag=etag)
    await refusing(site.deployments.DeleteDeployment(request))


async def gone(site: Site, name: str = "d") -> None:
    async def missing() -> bool:
        try:
            await site.get(name)
        except NotFound:
            return True
        return False

    await eventually_async(missing, 20, f"{name} to be gone")


async def replica(site: Site, name: str = "d") -> pb.Replica:
    state = await site.deployments.GetReplicaState(pb.GetReplicaStateRequest(name=f"{PARENT}/deployments/{name}"))
    found: pb.Replica = state.replicas[0]
    return found


async def test_a_new_deployment_is_pending_then_ready_with_what_was_asked_for(
    site: Site, adapters: dict[str, Path]
) -> None:
    version = site.register(adapters["one"])
    created = await site.create(routes={"a": version}, wait=False, labels={"team": "a"})
    assert created.name == D
    assert created.state == pb.Deployment.STATE_PENDING
    ready = await site.wait_for("d", READY)
    assert ready.base_digest == site.base_digest
    assert ready.ready_replicas == 1
    assert ready.labels == {"team": "a"}
    assert [(route.id, route.state, route.resolved_version) for route in ready.routes] == [
        ("a", pb.Route.STATE_READY, version)
    ]
    assert ready.routes[0].adapter_digest == site.digest_of(version)
    held = await replica(site)
    assert (held.base_digest, list(held.adapter_digests)) == (site.base_digest, [site.digest_of(version)])
    assert held.memory_bytes > 0


async def test_creating_twice_with_one_request_id_makes_one(site: Site) -> None:
    deployment = pb.Deployment(base_model=site.base, precision=pb.Deployment.PRECISION_FP32)
    request = pb.CreateDeploymentRequest(parent=PARENT, deployment=deployment, request_id="r1")
    first, second = [await site.deployments.CreateDeployment(request) for _ in range(2)]
    assert first.name == second.name
    request.deployment.on_demand = True
    with pytest.raises(Invalid) as refused:
        await refusing(site.deployments.CreateDeployment(request))
    assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_a_taken_name_is_refused(site: Site) -> None:
    await site.create(wait=False)
    with pytest.raises(AlreadyExists):
        await site.create(wait=False)


async def test_validate_only_checks_and_stores_nothing(site: Site) -> None:
    deployment = pb.Deployment(base_model=site.base)
    request = pb.CreateDeploymentRequest(parent=PARENT, deployment_id="d", deployment=deployment, validate_only=True)
    answer = await site.deployments.CreateDeployment(request)
    assert (answer.name, answer.base_model) == ("", site.base)
    with pytest.raises(NotFound):
        await site.get()
    request.deployment.on_demand_max = 5000
    with pytest.raises(Invalid):
        await refusing(site.deployments.CreateDeployment(request))


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"base_model": "nonsense"}, Invalid, "deployment.base_model"),
        ({"base_model": "file:/does/not/exist"}, NotFound, "deployment.base_model"),
        ({"base_model": "pypi:not-installed-here"}, NotFound, "deployment.base_model"),
        ({"routes": {"a": f"{PARENT}/models/m/versions/9"}}, NotFound, "deployment.routes[0].model_version"),
        ({"routes": {"a": "projects/other/models/m/versions/1"}}, Invalid, "deployment.routes[0].model_version"),
        ({"routes": {"A b": f"{PARENT}/models/m@x"}}, Invalid, "deployment.routes[0].id"),
        ({"on_demand_max": -1}, Invalid, "deployment.on_demand_max"),
        ({"context_tokens": 3}, Invalid, "deployment.context_tokens"),
        ({"replicas": -1}, Invalid, "deployment.replicas"),
        ({"engine": pb.Deployment.ENGINE_VLLM}, Unserved, "deployment.engine"),
        ({"labels": {"k": "v" * 513}}, Invalid, "deployment.labels"),
    ],
)
async def test_bad_wishes_are_refused_by_their_path_and_leave_nothing(
    site: Site, fields: dict[str, Any], kind: type[Refusal], field: str
) -> None:
    with pytest.raises(kind) as refused:
        await site.create(wait=False, **fields)
    assert refused.value.fields[0].field == field
    listed = await site.deployments.ListDeployments(pb.ListDeploymentsRequest(parent=PARENT))
    assert listed.total_size == 0


async def test_another_base_than_the_version_was_trained_on_is_refused(site: Site, adapters: dict[str, Path]) -> None:
    right = site.register(adapters["one"])
    wrong = site.register(adapters["two"], 2, base_digest="sha256:" + "0" * 64)
    await site.create(routes={"a": right, "b": wrong}, wait=False)
    deployment = await site.wait_for("d", DEGRADED)
    assert [route.state for route in deployment.routes] == [pb.Route.STATE_READY, pb.Route.STATE_FAILED]
    assert deployment.routes[1].failure.reason == deployment.failure.reason == "BASE_DIGEST_MISMATCH"
    refusal = await site.refused(wrong)
    assert (refusal.reason, refusal.metadata["cause"]) == ("MODEL_NOT_LOADED", "BASE_DIGEST_MISMATCH")
    assert await site.chat(right)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adapter_digest": "sha256:" + "0" * 64}, "ADAPTER_DIGEST_MISMATCH"),
        ({"chat_template_hash": "sha256:" + "0" * 64}, "TEMPLATE_MISMATCH"),
    ],
)
async def test_files_or_a_template_other_than_recorded_are_refused(
    site: Site, adapters: dict[str, Path], changes: dict[str, Any], reason: str
) -> None:
    version = site.register(adapters["one"], **changes)
    await site.create(routes={"a": version}, wait=False)
    deployment = await site.wait_for("d", FAILED)
    assert deployment.failure.reason == reason
    assert (await site.refused(version)).reason == "MODEL_NOT_LOADED"


async def test_tainted_versions_and_models_that_reward_are_refused_at_once(
    site: Site, adapters: dict[str, Path]
) -> None:
    tainted = site.register(adapters["one"], state=registry_pb2.ModelVersion.STATE_TAINTED)
    reward = site.register(adapters["two"], 2, kind=registry_pb2.ModelVersion.KIND_REWARD)
    for version, kind, reason in (
        (tainted, WrongState, "VERSION_TAINTED"),
        (reward, Unserved, "VERSION_KIND_UNSERVED"),
    ):
        with pytest.raises(kind) as refused:
            await site.create(routes={"a": version}, wait=False)
        assert refused.value.reason == reason


async def test_two_deployments_of_one_base_share_it_and_the_last_one_frees_it(site: Site) -> None:
    await site.create("d")
    await site.create("e")
    assert site.metric("loaded_bases") == 1
    await delete(site, "d")
    await gone(site, "d")
    assert await site.chat(site.base)
    await delete(site, "e")
    await gone(site, "e")
    assert site.metric("loaded_bases") == 0
    assert (await site.refused(site.base)).reason == "MODEL_NOT_LOADED"


async def test_deleting_lets_running_answers_end(site: Site) -> None:
    await site.create()
    call = site.chats.ChatStream(pb.ChatStreamRequest(chat=chat_request(site.base, **LINGERING)))
    events = aiter(call)
    assert (await anext(events)).identity.model_version == site.base
    await delete(site)
    assert (await site.refused(site.base)).reason == "MODEL_NOT_LOADED"
    rest = [event async for event in events]
    assert rest[-1].end.usage.completion_tokens == LINGERING["max_tokens"]
    await gone(site)


async def test_a_name_can_be_used_again_after_deletion(site: Site) -> None:
    first = await site.create()
    await delete(site)
    await gone(site)
    second = await site.create()
    assert first.etag != second.etag
    with pytest.raises(Conflict):
        await delete(site, etag=first.etag)


async def test_changed_routes_are_loaded_and_old_ones_freed(site: Site, adapters: dict[str, Path]) -> None:
    one, two = site.register(adapters["one"]), site.register(adapters["two"], 2)
    before = await site.create(routes={"a": one})
    after = await update(site, "routes", etag=before.etag, routes=[pb.Route(id="b", model_version=two)])
    assert after.etag != before.etag
    assert after.state == pb.Deployment.STATE_LOADING
    await site.wait_for("d", READY)
    assert (await site.chat(two)).identity.model_version == two
    assert (await site.refused(one)).reason == "MODEL_NOT_LOADED"
    await eventually_async(lambda: holds(site, [site.digest_of(two)]), 20)


async def holds(site: Site, digests: list[str]) -> bool:
    return sorted((await replica(site)).adapter_digests) == sorted(digests)


async def test_updates_meet_by_etag_and_mask(site: Site) -> None:
    first = await site.create()
    with pytest.raises(Conflict) as stale:
        await update(site, "display_name", etag="old", display_name="x")
    assert stale.value.reason == "ETAG_MISMATCH"
    changed = await update(site, "display_name", display_name="Mine")
    assert (changed.display_name, changed.base_model) == ("Mine", first.base_model)
    for path in ("base_model", "precision", "state", "nonsense"):
        with pytest.raises(Invalid):
            await update(site, path)


async def test_an_alias_that_moves_swaps_the_adapter_without_a_refused_call(
    site: Site, adapters: dict[str, Path]
) -> None:
    one, two = site.register(adapters["one"]), site.register(adapters["two"], 2)
    alias = f"{PARENT}/models/m@production"
    site.registry.aliases[alias] = one
    await site.create(routes={"a": alias})
    seen: list[str] = []

    async def traffic() -> bool:
        answers = await asyncio.gather(*(site.chat(alias, max_tokens=20) for _ in range(3)))
        seen.extend(answer.identity.model_version for answer in answers)
        return seen[-1] == two

    await traffic()
    site.registry.aliases[alias] = two
    await eventually_async(traffic, 20, "the alias to be followed")
    assert seen == sorted(seen)
    await eventually_async(lambda: holds(site, [site.digest_of(two)]), 20)
    deployment = await site.get()
    assert deployment.routes[0].resolved_version == two


async def test_an_alias_that_moves_to_a_broken_version_leaves_the_old_one_answering(
    site: Site, adapters: dict[str, Path]
) -> None:
    one = site.register(adapters["one"])
    broken = site.register(adapters["two"], 2, adapter_digest="sha256:" + "0" * 64)
    alias = f"{PARENT}/models/m@production"
    site.registry.aliases[alias] = one
    await site.create(routes={"a": alias})
    site.registry.aliases[alias] = broken
    deployment = await site.wait_for("d", DEGRADED)
    assert deployment.failure.reason == "ADAPTER_DIGEST_MISMATCH"
    assert deployment.routes[0].state == pb.Route.STATE_READY
    assert (await site.chat(alias)).identity.model_version == one


async def test_a_registry_that_is_down_does_not_stop_what_is_loaded(site: Site, adapters: dict[str, Path]) -> None:
    version = site.register(adapters["one"])
    alias = f"{PARENT}/models/m@production"
    site.registry.aliases[alias] = version
    await site.create(routes={"a": alias})
    site.registry.is_down = True
    for _ in range(5):
        assert (await site.chat(alias)).identity.model_version == version
    assert isinstance(await site.refused(f"{PARENT}/models/m/versions/9"), Unavailable)
    assert (await site.get()).state == READY


async def test_a_restart_loads_again_what_is_wanted_even_without_the_registry(
    site: Site, adapters: dict[str, Path]
) -> None:
    version = site.register(adapters["one"])
    await site.create(routes={"a": version})
    text = (await site.chat(version)).message
    await site.stop()
    site.registry.is_down = True
    await site.start()
    answer = await eventually_async(lambda: _answer(site, version), 30, "the version to be loaded again")
    assert answer is not None
    assert (answer.message, answer.identity.model_version) == (text, version)


async def _answer(site: Site, model: str) -> pb.ChatResponse | None:
    try:
        return await site.chat(model)
    except Unavailable as refusal:
        if refusal.reason == "MODEL_LOADING":
            return None
        raise


async def test_watching_sees_every_state_and_the_end(site: Site) -> None:
    await site.create(wait=False)
    call = site.deployments.WatchDeployment(pb.WatchDeploymentRequest(name=D))
    seen: list[pb.WatchDeploymentResponse] = []
    async for response in call:
        seen.append(response)
        if response.deployment.state == READY and len(seen) > 1:
            await delete(site)
    cursors = [response.cursor for response in seen]
    assert cursors == sorted(set(cursors))
    assert seen[-1].deleted
    assert not any(response.deleted for response in seen[:-1])
    states = [response.deployment.state for response in seen[:-1]]
    assert READY in states
    assert states[-1] == pb.Deployment.STATE_DELETING


async def test_watching_goes_on_from_a_cursor_without_loss_or_double(site: Site) -> None:
    await site.create()
    first = site.deployments.WatchDeployment(pb.WatchDeploymentRequest(name=D))
    cursor = (await read(first)).cursor
    first.cancel()
    await update(site, "display_name", display_name="Changed")
    again = site.deployments.WatchDeployment(pb.WatchDeploymentRequest(name=D, cursor=cursor))
    response = await read(again)
    assert response.cursor > cursor
    assert response.deployment.display_name == "Changed"
    again.cancel()
    with pytest.raises(NotFound):
        await refusing(site.deployments.WatchDeployment(pb.WatchDeploymentRequest(name=f"{D}x")).read())


async def read(call: Any) -> pb.WatchDeploymentResponse:
    response = await call.read()
    assert isinstance(response, pb.WatchDeploymentResponse)
    return response


async def test_lists_page_filter_and_order(site: Site) -> None:
    for name in ("a", "b", "c"):
        await site.create(name, wait=False, replicas=0, labels={"half": "left" if name < "c" else "right"})
    request = pb.ListDeploymentsRequest(parent=PARENT, page_size=2)
    page = await site.deployments.ListDeployments(request)
    assert [one.name[-1] for one in page.deployments] == ["c", "b"]
    assert page.total_size == 3
    request.page_token = page.next_page_token
    rest = await site.deployments.ListDeployments(request)
    assert [one.name[-1] for one in rest.deployments] == ["a"]
    assert rest.next_page_token == ""
    left = pb.ListDeploymentsRequest(parent=PARENT, filter='labels.half = "left"', order_by="name")
    assert [one.name[-1] for one in (await site.deployments.ListDeployments(left)).deployments] == ["a", "b"]
    elsewhere = pb.ListDeploymentsRequest(parent="projects/other")
    assert (await site.deployments.ListDeployments(elsewhere)).total_size == 0


async def test_no_replicas_keep_the_deployment_and_load_nothing(site: Site) -> None:
    await site.create(replicas=0)
    assert site.metric("loaded_bases") == 0
    assert (await site.refused(D)).reason == "MODEL_NOT_LOADED"
    await update(site, "replicas", replicas=1)
    await eventually_async(lambda: _answer(site, D), 30)


async def test_servable_models_are_all_names_that_would_be_answered(site: Site, adapters: dict[str, Path]) -> None:
    one, two = site.register(adapters["one"]), site.register(adapters["two"], 2)
    alias = f"{PARENT}/models/m@production"
    site.registry.aliases[alias] = one
    await site.create(routes={"a": alias}, on_demand=True)
    listed = await site.deployments.ListServableModels(pb.ListServableModelsRequest(parent=PARENT))
    assert {model.model: model.loaded for model in listed.models} == {
        site.base: True,
        D: True,
        alias: True,
        one: True,
        two: False,
    }
    for model in listed.models:
        assert (await site.chat(model.model)).identity == model.identity
    loaded = pb.ListServableModelsRequest(parent=PARENT, filter="loaded = false")
    assert (await site.deployments.ListServableModels(loaded)).total_size == 0


async def test_a_room_without_deployments_starts_without_torch(tmp_path: Path, tiny_model: Path) -> None:
    async with open_site(tmp_path, tiny_model) as site:
        assert (await site.refused(site.base)).reason == "MODEL_NOT_LOADED"
        assert site.metric("loaded_bases") == 0
