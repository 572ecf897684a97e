"""Architectures with windows and mixed layers answer in a batch as they do alone; what cannot be served is refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.inference.engine import GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.kit.errors import WrongState
from tests.contract.inference.adapters import load_plain
from tests.contract.inference.generating import texts

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "eos_token_id": None,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {**MIXED, "use_sliding_window": True, "max_window_layers": 0},
    "gemma3_text": MIXED,
}


def make(tiny_model: Path, folder: Path, family: str, **settings: Any) -> BaseFiles:
    shutil.copytree(
        tiny_model, folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json", "generation_*")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        make_model: Any = AutoModelForCausalLM.from_config
        model = make_model(AutoConfig.for_model(family, **{**SIZES, **settings}))
    model.save_pretrained(folder)
    return BaseFiles(f"file:{folder}", f"sha256:{family}", "folder", folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_in_a_batch_as_generate_does_alone(tiny_model: Path, tmp_path: Path, family: str) -> None:
    base = make(tiny_model, tmp_path / family, family, **FAMILIES[family])
    engine = ENGINES["transformers"](base, "fp32", EngineOptions(cache_dir=tmp_path, prefill_tokens_per_step=16))
    model = load_plain(base.path)
    chosen = random.Random(4)
    prompts = [[chosen.randrange(3, 500) for _ in range(length)] for length in (3, 40, 9, 25, 60, 16)]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=25, do_sample=False, eos_token_id=2
            )
        expected.append(engine.decode(out[0, len(prompt) :].tolist()))
    assert texts(engine, [GenerationRequest(prompt, max_tokens=25) for prompt in prompts]) == expected
    engine.close()


def test_layers_that_keep_another_kind_of_state_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    kinds = ["linear_attention", "full_attention", "linear_attention"]
    base = make(tiny_model, tmp_path / "base", "qwen3_next", layer_types=kinds, num_experts=2, num_experts_per_tok=1)
    with pytest.raises(WrongState) as refused:
        ENGINES["transformers"](base, "fp32", EngineOptions(cache_dir=tmp_path))
    assert refused.value.reason == "BASE_MODEL_UNSUPPORTED"
