"""The hand-written pass: where it is taken, and that it computes what the model's own computes."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from feinschliff.inference.engine import GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.engines.decks import Decks
from feinschliff.inference.engines.native import NativeDecoder
from feinschliff.inference.engines.prefixes import PAGE_TOKENS, PrefixCache
from feinschliff.inference.engines.products import Products
from feinschliff.inference.engines.reading import read_adapter
from feinschliff.inference.engines.row import Row
from feinschliff.lm import kernels
from tests.contract.inference.adapters import load_plain, make_adapter
from tests.contract.inference.generating import generate, texts
from tests.contract.inference.test_inference_families import FAMILIES, make

TAKEN = ("llama", "qwen3", "mistral", "qwen2")
SCALED = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}  # fmt: skip


def decoder_of(model: PreTrainedModel, cache: Path) -> NativeDecoder | None:
    with torch.inference_mode():
        return NativeDecoder.of(model, kernels.load("fp32", cache, threads=2), Products(), PrefixCache(0))


def row_of(ids: list[int], max_tokens: int = 30) -> Row:
    request = GenerationRequest(ids, max_tokens=max_tokens)
    return Row.of(request, lambda event: None, decode=lambda ids: "", stop_ids=())


@pytest.mark.parametrize(
    ("family", "settings"),
    [*((name, FAMILIES[name]) for name in TAKEN), ("llama", SCALED)],
    ids=[*TAKEN, "llama3 turns"],
)
def test_logits_are_the_model_s_own(tiny_model: Path, tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    model = load_plain(make(tiny_model, tmp_path / family, family, **settings).path)
    decoder = decoder_of(model, tmp_path)
    assert decoder is not None
    chosen = random.Random(2)
    texts = [[chosen.randrange(3, 500) for _ in range(length)] for length in (1, 20, 75)]
    rows = [row_of(ids) for ids in texts]

    def own(ids: list[int]) -> Tensor:
        logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        return logits

    with torch.inference_mode():
        for row, ids in zip(rows, texts, strict=True):
            for start in range(0, len(ids), 32):
                logits_V = decoder.read(row, start, min(len(ids), start + 32))
            torch.testing.assert_close(logits_V, own(ids), rtol=1e-3, atol=1e-3)
            decoder.join(row)
        for step in range(12):
            for row, ids in zip(rows, texts, strict=True):
                row.last_token = chosen.randrange(3, 500)
                ids.append(row.last_token)
            logits_BV = decoder.decode(rows)
            for ids, logits_V in zip(texts, logits_BV, strict=True):
                torch.testing.assert_close(logits_V, own(ids), rtol=1e-3, atol=1e-3)
            if step == 5:
                decoder.leave(0)
                rows[0], texts[0] = rows.pop(), texts.pop()
    assert decoder.allocated_bytes > 0


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gemma3_text", FAMILIES["gemma3_text"]),
        ("granite", {"residual_multiplier": 0.5}),
        ("granite", {"logits_scaling": 3.0}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    ],
    ids=["other layers", "other sums", "other logits", "other gates", "other turns"],
)
def test_a_model_that_computes_anything_else_keeps_its_own_pass(
    tiny_model: Path, tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    model = load_plain(make(tiny_model, tmp_path / family, family, **settings).path)
    assert decoder_of(model, tmp_path) is None


def test_both_ways_say_the_same_with_and_without_adapters(tiny_model: Path, tmp_path: Path) -> None:
    base = make(tiny_model, tmp_path / "llama", "llama")
    adapter = make_adapter(base.path, tmp_path / "one", seed=3)
    ids = [random.Random(n).sample(range(3, 500), 10 + 9 * n) for n in range(6)]
    requests = [GenerationRequest(one, ("", "one")[n % 2], max_tokens=20) for n, one in enumerate(ids)]
    said = []
    for native in (True, False):
        engine = ENGINES["transformers"](base, "fp32", EngineOptions(cache_dir=tmp_path, native=native))
        engine.load_adapter("one", adapter)
        said.append(texts(engine, requests))
        engine.close()
    assert said[0] == said[1]
    assert len(set(said[0])) == len(requests)


def test_weights_that_versions_share_are_laid_out_once(tiny_model: Path, tmp_path: Path) -> None:
    model: Any = load_plain(make(tiny_model, tmp_path / "llama", "llama").path)
    products, layer = Products(), model.model.layers[0].self_attn.q_proj
    built = kernels.load("fp32", tmp_path, threads=1)
    assert built is not None
    assert products.of(layer, built) is products.of(layer, built)
    decks = Decks(model, context_tokens=200, kernels=built)
    assert decks.is_native
    decks.close()


def test_what_prompts_begin_with_is_read_once_and_changes_no_answer(tiny_model: Path, tmp_path: Path) -> None:
    base = make(tiny_model, tmp_path / "llama", "llama")
    adapter = make_adapter(base.path, tmp_path / "one", seed=3)
    shared = random.Random(0).sample(range(3, 500), 3 * PAGE_TOKENS)
    requests = [
        GenerationRequest([*shared, *random.Random(n).sample(range(3, 500), 5 + n)], ("", "one")[n % 2], max_tokens=20)
        for n in range(8)
    ]
    said = []
    for bytes_max in (0, 64 * 1024**2):
        options = EngineOptions(tmp_path, prefill_tokens_per_step=48, prefix_cache_bytes_max=bytes_max)
        engine = ENGINES["transformers"](base, "fp32", options)
        engine.load_adapter("one", adapter)
        said.append([(texts(engine, [one]), engine.capacity().kv_cache_bytes) for one in requests])
        kept = engine.capacity().prefix_cache_bytes
        assert (kept > 0) == (bytes_max > 0)
        cached = [generate(engine, [one])[0].done.cached_tokens for one in requests]
        assert cached == [3 * PAGE_TOKENS if bytes_max else 0] * len(requests)
        engine.close()
    assert said[0] == said[1]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("family", TAKEN)
def test_one_call_gives_the_bits_of_its_parts_and_a_row_s_bits_are_its_own(
    tiny_model: Path, tmp_path: Path, family: str, precision: str
) -> None:
    base = make(tiny_model, tmp_path / family, family).path
    model: Any = load_plain(base).to({"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    built = kernels.load(precision, tmp_path, threads=2)
    assert built is not None
    if not built.multiplies:
        pytest.skip("the library computes the products here, part by part")
    chosen = random.Random(3)
    rows = [row_of([chosen.randrange(3, 500) for _ in range(length)]) for length in (1, 40, 75, 9, 130)]
    for row, digest in zip(rows, ("", "one", "two", "one", ""), strict=True):
        row.request = dataclasses.replace(row.request, adapter_digest=digest)
        row.last_token = chosen.randrange(3, 500)

    def logits(count: int, *, whole: bool, drafted: int = 0) -> Tensor:
        """Of three tokens of each row, (3, B, V): in as many steps, or drafted in two."""
        decoder = NativeDecoder.of(model, built, Products(), PrefixCache(0))
        assert decoder is not None
        assert decoder._stepper is not None
        for digest, adapter in adapters.items():
            decoder.add(digest, adapter)
        for row in rows[:count]:
            decoder.read(row, 0, len(row.request.prompt_ids))
            decoder.join(row)
        decoder._stepper = decoder._stepper if whole else None
        if not drafted:
            return torch.stack([decoder.decode(rows[:count]) for _ in range(3)])
        wrong = [(row.last_token + 1) % 500 for row in rows]
        drafts = [
            [row.last_token] * drafted + [other] * n for n, (row, other) in enumerate(zip(rows, wrong, strict=True))
        ]
        found = decoder.decode_drafts(rows[:count], drafts[:count])
        decoder.hold([drafted] * count)
        right = [logits_TV[: 1 + drafted] for logits_TV in found.split([1 + len(draft) for draft in drafts[:count]])]
        return torch.cat([torch.stack(right, dim=1), *(decoder.decode(rows[:count])[None] for _ in range(2 - drafted))])

    with torch.inference_mode():
        adapters = {
            name: read_adapter(make_adapter(base, tmp_path / name, seed=seed, rank=rank), model)
            for seed, (name, rank) in enumerate((("one", 3), ("two", 20)))
        }
        together = logits(5, whole=True)
        assert torch.equal(together, logits(5, whole=False))
        assert torch.equal(together[:, :2], logits(2, whole=True))
        assert torch.equal(together, logits(5, whole=True, drafted=2))
        assert torch.equal(together[:, :2], logits(2, whole=True, drafted=1))
        assert torch.isfinite(together).all()
