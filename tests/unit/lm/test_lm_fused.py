"""Layers in fewer passes over memory compute what transformers' own do, and what is otherwise is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import (
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import flatten
from feinschliff.lm.fused import use_fused_layers
from feinschliff.lm.logprobs import score_labels
from feinschliff.lm.rows_attention import rows_apart
from tests.unit.lm.test_lm_flat import SMALL, small

ROWS = [Encoded([7 * k + 3 * i + 3 for i in range(9)], [i > 3 for i in range(9)]) for k in range(4)]
LAYERS, NORMS_OUTSIDE = 2, 1


def shaken(config: PreTrainedConfig) -> PreTrainedModel:
    """No weight of a norm is one, so that a lost factor shows."""
    model = small(config).requires_grad_(True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(torch.randn_like(weight), alpha=0.3)
    return model


def loss_and_gradients(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    with rows_apart(model):
        loss = -score_labels(model, flatten(ROWS)).logprobs_N.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SMALL), Qwen2Config(**SMALL), MistralConfig(**SMALL), Qwen3Config(**SMALL, head_dim=8)],
    ids=lambda config: config.model_type,
)
def test_loss_and_every_gradient_are_the_same(config: PreTrainedConfig) -> None:
    own = shaken(config)
    fused = copy.deepcopy(own)

    assert use_fused_layers(fused) == 3 * LAYERS + NORMS_OUTSIDE

    (loss, gradients), (expected, wanted) = loss_and_gradients(fused), loss_and_gradients(own)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_in_bf16_the_gradient_is_as_near_to_fp32_as_transformers_is() -> None:
    exact = shaken(LlamaConfig(**SMALL))
    own, fused = (copy.deepcopy(exact).to(torch.bfloat16) for _ in range(2))
    assert use_fused_layers(fused) == 3 * LAYERS + NORMS_OUTSIDE

    (_, wanted), (_, theirs), (_, ours) = (loss_and_gradients(model) for model in (exact, own, fused))

    def error(gradients: dict[str, Tensor]) -> float:
        return sum(float((gradients[name] - one).norm() / one.norm()) for name, one in wanted.items()) / len(wanted)

    assert error(ours) < 1.1 * error(theirs)


def test_less_is_kept_for_the_backward_pass() -> None:
    own = shaken(LlamaConfig(**SMALL))
    fused = copy.deepcopy(own)
    use_fused_layers(fused)

    def kept(model: PreTrainedModel) -> int:
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        storages: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with rows_apart(model), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            alive = score_labels(model, flatten(ROWS))
        assert alive.logprobs_N.requires_grad
        return sum(size for place, size in storages.items() if place not in weights)

    assert kept(fused) < 0.85 * kept(own)


def test_a_layer_that_computes_something_else_keeps_its_own_way() -> None:
    gelu = shaken(LlamaConfig(**SMALL, hidden_act="gelu"))
    assert use_fused_layers(gelu) == 2 * LAYERS + NORMS_OUTSIDE, "the norms alone"
    assert all("forward" not in vars(layer.mlp) for layer in gelu.model.layers)

    gemma = shaken(GemmaConfig(**SMALL, head_dim=8))
    assert use_fused_layers(gemma) == 0, "its norms multiply by 1 + w, its feed-forward layers have another activation"
