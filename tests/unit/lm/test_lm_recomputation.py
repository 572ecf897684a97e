"""Activations that are computed again: the same numbers, less memory, and frozen layers that stay free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from feinschliff.formats.adaptations import LastLayers, Lora
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import flatten
from feinschliff.lm.load import load_model
from feinschliff.lm.logprobs import score_labels
from feinschliff.lm.recomputation import recompute_activations
from feinschliff.lm.rows_attention import rows_apart

ROWS = [Encoded([10 + 3 * k for k in range(tokens)], [True] * tokens) for tokens in (40, 64, 7)]
ADAPTED: list[Any] = [Lora(rank=4), Lora(rank=4, dropout=0.2), LastLayers(layers=1)]


def learning(settings: Any, folder: Path, precision: Any) -> tuple[PreTrainedModel, dict[str, nn.Parameter]]:
    adapt = ADAPTATIONS[settings.kind]
    adapted = adapt.attach(load_model(folder, precision=precision), settings, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in adapt.trained(adapted).values():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    model = adapt.transformer(adapted)
    model.train()
    return model, adapt.trained(adapted)


def loss_and_kept_bytes(model: PreTrainedModel) -> tuple[float, int]:
    """The loss, its gradients in the weights, and the bytes that the forward pass keeps for them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(3)
    with rows_apart(model):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = -score_labels(model, flatten(ROWS)).logprobs_N.sum()
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", ADAPTED, ids=["lora", "lora-with-dropout", "last_layers"])
def test_the_same_bits_from_fewer_bytes(tiny_model: Path, settings: Any, precision: str) -> None:
    usual, usual_weights = learning(settings, tiny_model, precision)
    again, again_weights = learning(settings, tiny_model, precision)
    recompute_activations(again)

    loss, kept = loss_and_kept_bytes(usual)
    loss_again, kept_again = loss_and_kept_bytes(again)

    assert loss_again == loss
    assert kept_again < 0.7 * kept
    for name, weight in usual_weights.items():
        gradient, gradient_again = weight.grad, again_weights[name].grad
        assert gradient is not None
        assert gradient_again is not None
        assert torch.equal(gradient, gradient_again), name


def test_frozen_layers_at_the_bottom_are_run_once(tiny_model: Path) -> None:
    model, _ = learning(LastLayers(layers=1), tiny_model, "fp32")
    recompute_activations(model)
    runs: dict[str, int] = {}
    for name, module in model.named_modules():
        if name.endswith("input_layernorm"):
            module.register_forward_hook(lambda *_, name=name: runs.update({name: runs.get(name, 0) + 1}))

    loss_and_kept_bytes(model)

    assert runs == {"model.layers.0.input_layernorm": 1, "model.layers.1.input_layernorm": 2}


def test_a_base_whose_layers_cannot_be_run_again_is_refused() -> None:
    class Bare(nn.Module):
        pass

    with pytest.raises(Invalid) as refused:
        recompute_activations(Bare())  # type: ignore[arg-type]
    assert refused.value.reason == "ARCHITECTURE_UNSUPPORTED"
