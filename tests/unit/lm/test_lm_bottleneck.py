"""Networks behind the sublayers: nothing at first, then what their formula says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedModel

from feinschliff.formats.adaptations import Bottleneck
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import bottleneck
from feinschliff.lm.load import load_model

IDS = torch.tensor([[1, 40, 41, 60, 77, 90, 12, 5]])
PLACEMENTS = ("houlsby", "pfeiffer")


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        given: Tensor = model(input_ids=IDS, use_cache=False).logits
    return given


def stirred(adapted: bottleneck.Adapted) -> bottleneck.Adapted:
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in bottleneck.trained(adapted).values():
            weight.normal_(0, 0.3)
    return adapted


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fresh_networks_leave_the_base_as_it_is(tiny_model: Path, placement: str, precision: str) -> None:
    model = load_model(tiny_model, precision=precision)  # type: ignore[arg-type]
    before = logits(model)
    settings = Bottleneck(width=8, placement=placement)  # type: ignore[arg-type]

    adapted = bottleneck.attach(model, settings, seed=0)

    assert torch.equal(logits(model), before)
    assert {weight.dtype for weight in bottleneck.trained(adapted).values()} == {torch.float32}
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning
    assert all(".bottleneck." in name for name in learning)


@pytest.mark.parametrize(("placement", "behind"), [("houlsby", 2), ("pfeiffer", 1)])
def test_they_lie_where_the_papers_put_them(model: PreTrainedModel, placement: str, behind: int) -> None:
    settings = Bottleneck(width=8, placement=placement)  # type: ignore[arg-type]
    adapted = bottleneck.attach(model, settings, seed=0)

    places = {name.rsplit(".", 2)[0] for name in bottleneck.trained(adapted)}
    assert len(places) == 2 * behind
    assert sum(weight.numel() for weight in bottleneck.trained(adapted).values()) == 2 * behind * (2 * 64 * 8 + 64 + 8)
    assert ("0.attention" in places) == (placement == "houlsby")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_layer_computes_the_formula(model: PreTrainedModel, tmp_path: Path, placement: str) -> None:
    settings = Bottleneck(width=8, placement=placement)  # type: ignore[arg-type]
    adapted = stirred(bottleneck.attach(model, settings, seed=0))
    bottleneck.save(adapted, tmp_path, base_model="file:base")
    tensors = load_file(tmp_path / "bottleneck.safetensors")
    layer, x = model.model.layers[1], torch.randn(1, 5, 64)
    angles = model.model.rotary_emb(x, torch.arange(5)[None])

    def network(y: Tensor, place: str) -> Tensor:
        down, up = ((tensors[f"1.{place}.{side}.weight"], tensors[f"1.{place}.{side}.bias"]) for side in ("down", "up"))
        nonlinearity = F.gelu if placement == "houlsby" else F.relu
        return y + nonlinearity(y @ down[0].T + down[1]) @ up[0].T + up[1]

    with torch.no_grad():
        given = layer(x, position_embeddings=angles, attention_mask=None)
        plain = load_model(Path(model.name_or_path), precision="fp32").model.layers[1]
        y, _ = plain.self_attn(plain.input_layernorm(x), position_embeddings=angles, attention_mask=None)
        x = x + (network(y, "attention") if placement == "houlsby" else y)
        expected = x + network(plain.mlp(plain.post_attention_layernorm(x)), "feed_forward")

    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_saved_networks_say_the_same_on_another_base_in_memory(
    tiny_model: Path, tmp_path: Path, placement: str
) -> None:
    settings = Bottleneck(width=8, placement=placement)  # type: ignore[arg-type]
    adapted = stirred(bottleneck.attach(load_model(tiny_model, precision="fp32"), settings, seed=0))
    bottleneck.save(adapted, tmp_path, base_model="file:base")

    again = bottleneck.resume(load_model(tiny_model, precision="fp32"), tmp_path)

    assert again.settings == settings
    assert torch.equal(logits(again.base), logits(adapted.base))
    assert not torch.equal(logits(again.base), logits(load_model(tiny_model, precision="fp32")))


def test_sublayers_of_another_family_are_found() -> None:
    config = GPTNeoXConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(1)
    other = AutoModelForCausalLM.from_config(config).train(False)
    before = logits(other)
    adapted = bottleneck.attach(other, Bottleneck(width=4, placement="houlsby"), seed=0)
    assert torch.equal(logits(other), before)

    assert not torch.equal(logits(stirred(adapted).base), before)


def test_layers_without_the_two_parts_are_refused() -> None:
    with pytest.raises(Invalid) as refused:
        bottleneck.sublayers_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    assert refused.value.reason == "ARCHITECTURE_UNSUPPORTED"
