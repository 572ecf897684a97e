"""Adapters that are loaded when somebody asks for them, and go when others are asked for."""

from __future__ import annotations

from pathlib import Path

from feinschliff.kit.errors import (
    Exhausted,
)
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.site import LINGERING, PARENT, Site, chat_request, open_site
from tests.contract.inference.test_inference_deployments import holds, replica
from tests.support.waiting import eventually_async


async def test_on_demand_loads_what_a_call_names(site: Site, adapters: dict[str, Path]) -> None:
    version = site.register(adapters["one"])
    site.registry.aliases[f"{PARENT}/models/m@new"] = version
    await site.create(on_demand=True)
    assert list((await replica(site)).adapter_digests) == []
    assert (await site.chat(version)).identity.adapter_digest == site.digest_of(version)
    assert (await site.chat(f"{PARENT}/models/m@new")).identity.model_version == version
    assert await holds(site, [site.digest_of(version)])


async def test_on_demand_waits_for_the_base_too(site: Site, adapters: dict[str, Path]) -> None:
    version = site.register(adapters["one"])
    await site.create(on_demand=True, wait=False)
    assert (await site.chat(version)).identity.model_version == version


async def test_on_demand_keeps_the_latest_and_lets_the_oldest_go(site: Site, adapters: dict[str, Path]) -> None:
    versions = [site.register(folder, model=name) for name, folder in adapters.items()]
    await site.create(on_demand=True, on_demand_max=2)
    for version in versions:
        await site.chat(version)
    assert await holds(site, [site.digest_of(version) for version in versions[1:]])
    assert (await site.chat(versions[0])).identity.model_version == versions[0]
    assert site.metric("adapter_loads_total", outcome="evicted") == 2


async def test_on_demand_with_all_places_in_use_is_refused_with_a_delay(site: Site, adapters: dict[str, Path]) -> None:
    one, two = (site.register(adapters[name], model=name) for name in ("one", "two"))
    await site.create(on_demand=True, on_demand_max=1)
    call = site.chats.ChatStream(pb.ChatStreamRequest(chat=chat_request(one, **LINGERING)))
    await call.read()
    refusal = await site.refused(two)
    assert isinstance(refusal, Exhausted)
    assert refusal.retry_after_seconds
    call.cancel()

    async def answered() -> bool:
        try:
            return bool(await site.chat(two))
        except Exhausted:
            return False

    await eventually_async(answered)


async def test_on_demand_refuses_other_bases_and_unknown_versions(site: Site, adapters: dict[str, Path]) -> None:
    other = site.register(adapters["one"], base_digest="sha256:" + "0" * 64)
    await site.create(on_demand=True)
    assert (await site.refused(other)).reason == "BASE_DIGEST_MISMATCH"
    assert (await site.refused(f"{PARENT}/models/m/versions/77")).reason == "MODEL_UNKNOWN"


async def test_on_demand_lets_idle_adapters_go_and_loads_them_again(
    tmp_path: Path, tiny_model: Path, adapters: dict[str, Path]
) -> None:
    async with open_site(tmp_path, tiny_model, inference_adapter_idle_seconds=0.1) as site:
        version = site.register(adapters["one"])
        await site.create(on_demand=True)
        first = await site.chat(version)
        await eventually_async(lambda: holds(site, []), 20)
        assert site.metric("adapter_loads_total", outcome="idle") == 1
        assert site.metric("adapter_bytes") == 0
        assert (await site.chat(version)).message == first.message


async def test_on_demand_keeps_what_fits_into_the_memory_for_adapters(
    tmp_path: Path, tiny_model: Path, adapters: dict[str, Path]
) -> None:
    async with open_site(tmp_path, tiny_model, inference_adapter_bytes_max=1) as site:
        one, two = (site.register(adapters[name], model=name) for name in ("one", "two"))
        await site.create(on_demand=True)
        for version in (one, two):
            await site.chat(version)
        await eventually_async(lambda: holds(site, [site.digest_of(two)]), 20)
        assert site.metric("adapter_loads_total", outcome="evicted") == 1
        assert site.metric("adapter_limit_bytes") == 1
