"""Weights kept in bytes: they compute what the numbers that they stand for compute, for every kind of version."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.inference.engine import GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.engines.decks import Decks
from feinschliff.inference.engines.packed import PackedLinear, layers_in_bytes, pack
from feinschliff.inference.scores import ScoringRequest
from feinschliff.kit.errors import WrongState
from feinschliff.lm import kernels
from feinschliff.lm.kernels import Kernels
from feinschliff.lm.load import Precision, load_base, load_model
from feinschliff.lm.quantised import Quantisation, QuantisedLinear, quantise, quantise_head, widen
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.generating import generate, texts
from tests.contract.inference.kinds import Made
from tests.contract.inference.site import Site, chat_request, refusing
from tests.contract.inference.test_inference_deployments import delete, gone
from tests.contract.inference.test_inference_families import FAMILIES, make

INT8 = Quantisation("int8")


def kernels_of(precision: Precision, cache: Path) -> Kernels:
    built = kernels.load(precision, cache, threads=2)
    assert built is not None
    return built


def in_bytes(folder: Path, *, precision: Precision = "fp32") -> Any:
    model = load_model(folder, precision=precision, quantisation=INT8)
    quantise_head(model, INT8)
    return model


def files_of(folder: Path) -> BaseFiles:
    return BaseFiles(f"file:{folder}", "sha256:tiny", "folder", folder)


def drawn(seed: int, length: int) -> list[int]:
    chosen = random.Random(seed)
    return [chosen.randrange(3, 400) for _ in range(length)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
@torch.inference_mode()
def test_bytes_compute_what_the_numbers_that_they_stand_for_compute(
    tiny_model: Path, tmp_path: Path, family: str
) -> None:
    folder = make(tiny_model, tmp_path / family, family, **FAMILIES[family]).path
    packed, wide = in_bytes(folder), in_bytes(folder)
    pack(packed, kernels_of("fp32", tmp_path))
    widen(wide)
    assert not any(isinstance(layer, QuantisedLinear) for layer in packed.modules())
    assert len(list(layers_in_bytes(packed))) == sum(type(layer) is nn.Linear for layer in wide.modules())
    for name, layer in layers_in_bytes(packed):
        assert torch.equal(layer.weight, wide.get_submodule(name).weight)
    decks = Decks(packed, context_tokens=200, kernels=kernels_of("fp32", tmp_path))
    assert decks.is_native == (family != "gemma3_text")
    ids = torch.tensor([drawn(1, 30)])
    expected: Tensor = wide(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(packed(input_ids=ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


def test_an_engine_says_alone_what_it_says_in_a_batch_and_scores_what_it_says(tiny_model: Path, tmp_path: Path) -> None:
    engine = ENGINES["transformers"](files_of(tiny_model), "int8", EngineOptions(tmp_path, rows_max=8))
    assert engine.facts.precision == "int8"
    requests = [GenerationRequest(drawn(n, 5 + 7 * n), max_tokens=12, logprobs=1) for n in range(8)]
    together = generate(engine, requests)
    assert [one.text for one in together] == [texts(engine, [one])[0] for one in requests]
    for request, one in zip(requests, together, strict=True):
        said = [event.score for event in one.events if getattr(event, "score", None)]
        ids = [*request.prompt_ids, *(score.token_id for score in said)]
        scored = engine.score(ScoringRequest(ids, first=len(request.prompt_ids))).result(60)
        for mine, other in zip(said, scored, strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=0.05)
    engine.close()


@pytest.mark.parametrize("kind", ["full", "last_layers", "full-embeddings", "qlora-int8", "lora", "dora"])
@torch.inference_mode()
def test_versions_stand_on_bytes_too(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    made = Made(tiny_model, tmp_path / kind, kind)
    base = in_bytes(tiny_model)
    pack(base, kernels_of("fp32", tmp_path))
    decks = Decks(base, context_tokens=200, kernels=kernels_of("fp32", tmp_path))
    decks.prepare(kind, made.folder)()
    model = decks.holding(kind).model
    if not kind.startswith(("full", "last_layers")):
        assert decks.holding(kind) is decks.holding("")
        return
    plain = made.model
    quantise(plain, INT8)
    quantise_head(plain, INT8)
    shared = {layer.panels.data_ptr() for _, layer in layers_in_bytes(base) if isinstance(layer, PackedLinear)}
    trained = 0
    for name, layer in layers_in_bytes(model):
        assert torch.equal(layer.weight, plain.get_submodule(name).weight), name
        assert isinstance(layer, PackedLinear)
        trained += layer.panels.data_ptr() not in shared
    assert trained == {"full": 14, "last_layers": 8, "full-embeddings": 15}[kind]
    assert torch.equal(model.get_input_embeddings().weight, plain.get_input_embeddings().weight)


def test_a_version_trained_on_a_base_in_four_bits_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    made = Made(tiny_model, tmp_path / "nf4", "qlora-nf4")
    engine = ENGINES["transformers"](files_of(tiny_model), "int8", EngineOptions(tmp_path))
    with pytest.raises(WrongState) as refused:
        engine.load_adapter("nf4", made.folder)
    assert refused.value.reason == "ADAPTER_UNSUPPORTED"
    engine.close()


def test_a_base_in_bytes_says_so_and_computes_with_this_machine_s_numbers(tiny_model: Path, tmp_path: Path) -> None:
    loaded = load_base(files_of(tiny_model), precision="int8", cache_dir=tmp_path)
    plain = load_base(files_of(tiny_model), cache_dir=tmp_path)
    assert (loaded.precision, loaded.model.dtype) == ("int8", plain.model.dtype)
    assert {layer.quantisation for _, layer in layers_in_bytes(loaded.model) if isinstance(layer, QuantisedLinear)} == {
        INT8
    }


async def test_weights_are_kept_as_the_deployment_says_and_two_ways_stand_beside_each_other(
    site: Site, adapters: dict[str, Path]
) -> None:
    version = site.register(adapters["one"])
    small = await site.create("small", precision=pb.Deployment.PRECISION_INT8, routes={"a": version})
    assert small.precision == pb.Deployment.PRECISION_INT8
    assert [route.state for route in small.routes] == [pb.Route.STATE_READY]
    assert (await site.get("small")).precision == pb.Deployment.PRECISION_INT8
    answer = await site.chats.Chat(chat_request(version))
    assert answer.identity.adapter_digest == site.digest_of(version)
    await site.create("d")
    await delete(site, "small")
    await gone(site, "small")
    with pytest.raises(WrongState):
        await refusing(site.chats.Chat(chat_request(version)))
    assert (await site.chats.Chat(chat_request(site.base))).usage.completion_tokens
