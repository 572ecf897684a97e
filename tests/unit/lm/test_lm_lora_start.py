"""Adapters that start from parts of the base: the base's own first pass, PEFT's numbers, a file that fits the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from feinschliff.formats.adaptations import Lora
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import lora
from feinschliff.lm.adaptations.lora_product import FusedLoraLinear
from feinschliff.lm.adaptations.lora_start import pissa
from feinschliff.lm.adaptations.saved import kind_of
from feinschliff.lm.load import load_model

IDS = torch.tensor([[1, 40, 41, 60, 77, 90, 12, 5]])
KINDS: tuple[Literal["pissa", "olora"], ...] = ("pissa", "olora")

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        given: Tensor = model(input_ids=IDS, use_cache=False).logits
    return given


def attached(tiny_model: Path, kind: Literal["pissa", "olora"], *, rslora: bool = False) -> PeftModel:
    settings = Lora(rank=8, start=kind, use_rslora=rslora)
    return lora.attach(load_model(tiny_model, precision="fp32"), settings, seed=1)


def stirred(model: PeftModel) -> PeftModel:
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in lora.trained(model).values():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rslora", [False, True])
def test_the_first_pass_is_the_bases(tiny_model: Path, kind: Literal["pissa", "olora"], rslora: bool) -> None:
    adapted = attached(tiny_model, kind, rslora=rslora)

    expected = logits(load_model(tiny_model, precision="fp32"))
    torch.testing.assert_close(logits(adapted), expected, rtol=1e-4, atol=1e-5)
    assert all(bool(weight.any()) for weight in lora.trained(adapted).values())
    assert sum(isinstance(module, FusedLoraLinear) for module in adapted.modules()) == 14


def test_olora_starts_as_pefts(tiny_model: Path) -> None:
    config = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", init_lora_weights="olora")
    theirs = get_peft_model(load_model(tiny_model, precision="fp32"), config)
    expected = dict(theirs.named_parameters())

    for name, weight in attached(tiny_model, "olora").named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_pissa_takes_the_main_directions_with_equal_shares() -> None:
    torch.manual_seed(0)
    values = torch.tensor([9.0, 7, 5, 4, 0.3, 0.2, 0.1, 0.1])
    left, right = (torch.linalg.qr(torch.randn(32, 8))[0] for _ in range(2))
    weight = left * values @ right.T

    start = pissa(weight, 4, scale=2.0)

    u, s, v = torch.linalg.svd(weight)
    torch.testing.assert_close(2.0 * start.b_OR @ start.a_RI, (u[:, :4] * s[:4]) @ v[:4], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(start.b_OR.norm(dim=0), start.a_RI.norm(dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rslora", [False, True])
def test_plain_peft_loads_the_difference_on_the_base_as_it_is(
    tiny_model: Path, tmp_path: Path, kind: Literal["pissa", "olora"], rslora: bool
) -> None:
    adapted = stirred(attached(tiny_model, kind, rslora=rslora))
    lora.save(adapted, tmp_path, base_model="file:base")

    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path)

    assert kind_of(tmp_path) == "lora"
    config = json.loads((tmp_path / "adapter_config.json").read_bytes())
    assert (config["r"], config["init_lora_weights"], config["base_model_name_or_path"]) == (16, True, "file:base")
    torch.testing.assert_close(logits(plain.eval()), logits(adapted), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(plain), logits(load_model(tiny_model, precision="fp32")), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_gives_every_bit_again(
    tiny_model: Path, tmp_path: Path, kind: Literal["pissa", "olora"], precision: str
) -> None:
    def base() -> PreTrainedModel:
        return load_model(tiny_model, precision=precision)  # type: ignore[arg-type]

    adapted = stirred(lora.attach(base(), Lora(rank=8, start=kind), seed=1))
    lora.save(adapted, tmp_path / "a", base_model="file:base")
    torch.rand(3)

    resumed = lora.resume(base(), tmp_path / "a")
    lora.save(resumed, tmp_path / "b", base_model="file:base")

    expected = dict(adapted.named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in resumed.named_parameters())
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_restoring_puts_saved_weights_back_and_leaves_the_base(
    tiny_model: Path, tmp_path: Path, kind: Literal["pissa", "olora"]
) -> None:
    adapted = stirred(attached(tiny_model, kind))
    expected = logits(adapted)
    lora.save(adapted, tmp_path, base_model="file:base")
    stirred(adapted)

    lora.restore(adapted, tmp_path)

    assert torch.equal(logits(adapted), expected)


def test_more_directions_than_a_layer_has_are_refused(tiny_model: Path) -> None:
    with pytest.raises(Invalid, match="k_proj") as refused:
        lora.attach(load_model(tiny_model, precision="fp32"), Lora(rank=40, start="pissa"), seed=0)
    assert refused.value.reason == "RANK_TOO_LARGE"
