"""Adapters train in fp32 beside a frozen base, and plain PEFT reads what they become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from feinschliff.formats.adaptations import Lora
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import lora
from feinschliff.lm.adaptations.lora_product import FusedLoraLinear
from feinschliff.lm.load import load_model

IDS = torch.tensor([[1, 40, 41, 60, 77, 90, 12, 5]])


def stirred(model: PeftModel, seed: int = 5) -> PeftModel:
    """Adapter weights as after training: B is no longer zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.05)
    return model


def trained(model: PeftModel) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model: PreTrainedModel | PeftModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=IDS, use_cache=False).logits
    return result


def test_fresh_adapters_leave_the_base_as_it_is(model: PreTrainedModel) -> None:
    before = logits(model)

    assert torch.equal(logits(lora.attach(model, Lora(), seed=1)), before)


def test_equal_seeds_give_equal_adapters_whatever_was_drawn_before(tiny_model: Path) -> None:
    first = trained(lora.attach(load_model(tiny_model, precision="fp32"), Lora(), seed=1))
    torch.rand(17)
    second = trained(lora.attach(load_model(tiny_model, precision="fp32"), Lora(), seed=1))
    third = trained(lora.attach(load_model(tiny_model, precision="fp32"), Lora(), seed=2))

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_all_linear_layers_but_the_head_are_adapted(model: PreTrainedModel) -> None:
    adapted = lora.attach(model, Lora(rank=4), seed=0)
    names = {name for name, module in adapted.named_modules() if isinstance(module, LoraLinear)}

    assert len(names) == 2 * 7
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_train_in_fp32_and_the_base_stays_frozen(tiny_model: Path, precision: str) -> None:
    adapted = lora.attach(load_model(tiny_model, precision=precision), Lora(), seed=0)  # type: ignore[arg-type]

    assert {weight.dtype for weight in trained(adapted).values()} == {torch.float32}
    frozen = {weight.dtype for name, weight in adapted.named_parameters() if name not in trained(adapted)}
    assert frozen == {torch.bfloat16 if precision == "bf16" else torch.float32}


@pytest.mark.parametrize("settings", [Lora(), Lora(use_rslora=True, rank=8, alpha=4)], ids=["plain", "rslora"])
def test_fused_products_equal_peft(tiny_model: Path, settings: Lora) -> None:
    adapted = stirred(lora.attach(load_model(tiny_model, precision="fp32"), settings, seed=0))
    fused = [module for module in adapted.modules() if isinstance(module, FusedLoraLinear)]
    assert len(fused) == 14

    ours = adapted(input_ids=IDS, labels=IDS, use_cache=False)
    ours.loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in trained(adapted).items() if weight.grad is not None}
    adapted.zero_grad()
    for module in fused:
        module.__class__ = LoraLinear
    peft = adapted(input_ids=IDS, labels=IDS, use_cache=False)
    peft.loss.backward()

    torch.testing.assert_close(ours.logits, peft.logits, rtol=1e-5, atol=1e-5)
    assert len(gradients) == 28
    for name, weight in trained(adapted).items():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_layers_with_dropout_keep_pefts_own_pass(model: PreTrainedModel) -> None:
    adapted = lora.attach(model, Lora(dropout=0.1), seed=0)

    assert not any(isinstance(module, FusedLoraLinear) for module in adapted.modules())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_plain_peft_loads_what_was_saved_and_says_the_same(tiny_model: Path, tmp_path: Path) -> None:
    adapted = stirred(lora.attach(load_model(tiny_model, precision="fp32"), Lora(rank=8), seed=0))
    lora.save(adapted, tmp_path, base_model="file:base")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    torch.testing.assert_close(logits(plain.eval()), logits(adapted), rtol=1e-5, atol=1e-5)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "file:base"


def test_saving_twice_gives_equal_bytes(model: PreTrainedModel, tmp_path: Path) -> None:
    adapted = stirred(lora.attach(model, Lora(), seed=0))
    for name in ("a", "b"):
        lora.save(adapted, tmp_path / name, base_model="file:base")

    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_saved_adapters_train_on_where_they_were(tiny_model: Path, tmp_path: Path) -> None:
    adapted = stirred(lora.attach(load_model(tiny_model, precision="fp32"), Lora(), seed=0))
    lora.save(adapted, tmp_path, base_model="file:base")

    resumed = lora.resume(load_model(tiny_model, precision="fp32"), tmp_path)

    assert trained(resumed).keys() == trained(adapted).keys()
    assert all(torch.equal(weight, trained(adapted)[name]) for name, weight in trained(resumed).items())


def test_restoring_puts_saved_weights_back(model: PreTrainedModel, tmp_path: Path) -> None:
    adapted = stirred(lora.attach(model, Lora(), seed=0), seed=1)
    lora.save(adapted, tmp_path, base_model="file:base")
    kept = {name: weight.detach().clone() for name, weight in trained(adapted).items()}
    stirred(adapted, seed=2)

    lora.restore(adapted, tmp_path)

    assert all(torch.equal(weight, kept[name]) for name, weight in trained(adapted).items())


def test_several_adapters_are_served_beside_one_base(tiny_model: Path, tmp_path: Path) -> None:
    expected = {}
    for seed, name in enumerate(("first", "second")):
        one = stirred(lora.attach(load_model(tiny_model, precision="fp32"), Lora(), seed=0), seed=seed)
        lora.save(one, tmp_path / name, base_model="file:base")
        expected[name] = logits(one)

    served: PreTrainedModel | PeftModel = load_model(tiny_model, precision="fp32")
    for name in expected:
        served = lora.load(served, tmp_path / name, name=name)
    assert isinstance(served, PeftModel)

    for name, said in expected.items():
        served.set_adapter(name)
        torch.testing.assert_close(logits(served), said, rtol=1e-5, atol=1e-5)


def test_an_unknown_target_is_refused_with_the_names_that_exist(model: PreTrainedModel) -> None:
    with pytest.raises(Invalid, match="q_proj") as refusal:
        lora.attach(model, Lora(target_modules=["q_proj", "query"]), seed=0)

    assert refusal.value.reason == "TARGET_MODULES_UNKNOWN"
    assert refusal.value.metadata["target_modules"] == "query"
