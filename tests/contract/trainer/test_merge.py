"""Trained weights that become part of the base: the merged model says what the adapted one said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from feinschliff.formats.adaptations import Dora, Full, Ia3, LastLayers, Lora, LowRank, Qlora
from feinschliff.formats.recipe import Recipe
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.adaptations.lora_product import FusedLoraLinear
from feinschliff.lm.load import load_model
from feinschliff.lm.quantised import QuantisedLinear

IDS = torch.tensor([[1, 40, 41, 60, 77, 90, 12, 5]])
MERGEABLE: dict[str, Any] = {
    "lora": Lora(),
    "lora_rslora": Lora(use_rslora=True),
    "lora_pissa": Lora(rank=8, start="pissa"),
    "lora_olora": Lora(rank=8, start="olora"),
    "dora": Dora(lora=LowRank(rank=4)),
    "qlora_nf4": Qlora(),
    "qlora_nf4_double": Qlora(double_quantisation=True),
    "qlora_int8": Qlora(quantisation="int8"),
    "ia3": Ia3(),
    "last_layers": LastLayers(layers=1),
    "full": Full(),
    "full_with_embeddings": Full(train_embeddings=True),
}
APART = ("bottleneck", "prompt", "p_tuning", "prefix")


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        given: Tensor = model(input_ids=IDS, use_cache=False).logits
    return given.float()


def trained(base: PreTrainedModel, settings: Any) -> nn.Module:
    adapt = ADAPTATIONS[settings.kind]
    adapted: nn.Module = adapt.attach(base, settings, seed=0)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in adapt.trained(adapted).values():
            weight.add_(torch.randn_like(weight), alpha=0.03)
    return adapted


@pytest.mark.parametrize("name", MERGEABLE)
def test_the_merged_model_says_the_same_and_is_a_plain_one(tiny_model: Path, tmp_path: Path, name: str) -> None:
    settings = MERGEABLE[name]
    adapt = ADAPTATIONS[settings.kind]
    adapted = trained(load_model(tiny_model, precision="fp32"), settings)
    expected = logits(adapt.transformer(adapted))

    merged = adapt.merge(adapted)
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)

    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(again), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, logits(load_model(tiny_model, precision="fp32")), atol=1e-2)
    assert not any(isinstance(module, FusedLoraLinear | QuantisedLinear) for module in merged.modules())
    assert not any(weight.requires_grad for weight in merged.parameters())
    names = {weight.removeprefix("lm_head.") for weight, _ in merged.named_parameters()}
    assert names >= {weight for weight, _ in load_model(tiny_model, precision="fp32").named_parameters()}


@pytest.mark.parametrize("name", MERGEABLE)
def test_a_model_in_bf16_is_merged_in_fp32(tiny_model: Path, name: str) -> None:
    settings = MERGEABLE[name]
    adapt = ADAPTATIONS[settings.kind]
    adapted = trained(load_model(tiny_model, precision="bf16"), settings)
    expected = logits(adapt.transformer(adapted))

    merged = adapt.merge(adapted)

    assert {weight.dtype for weight in merged.parameters()} == {torch.float32}
    assert float((logits(merged) - expected).abs().max() / expected.abs().max()) < 0.05


def test_every_other_adaptation_refuses(tiny_model: Path) -> None:
    assert {settings.kind for settings in MERGEABLE.values()} | set(APART) == set(ADAPTATIONS)
    for kind in APART:
        recipe = {"base_model": "file:x", "data": [{"dataset_version": "d"}], "adaptation": {"kind": kind}}
        settings = Recipe.model_validate(recipe).adaptation
        adapted = trained(load_model(tiny_model, precision="fp32"), settings)
        with pytest.raises(Invalid, match="cannot become part") as refused:
            ADAPTATIONS[kind].merge(adapted)
        assert refused.value.reason == "MERGE_IMPOSSIBLE"
