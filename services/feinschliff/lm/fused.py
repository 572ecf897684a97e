"""Norms and gated feed-forward layers in fewer passes over memory, with the same numbers, for training.

transformers writes them as chains of elementwise steps: each is a pass over memory, and most keep what they made for
the backward pass. Here each layer's chain is one function that keeps its inputs and computes the rest again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROOF_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Largest difference from the layer's own way, relative to its largest number."""

PROOF_TOKENS = 4

Forward = Callable[[Tensor], Tensor]


def use_fused_layers(model: PreTrainedModel) -> int:
    """Exchange the forward pass of every layer where the fused one is shown to give the same; how many those are."""
    found = [(module, fused) for module in model.modules() if (fused := _norm(module) or _feed_forward(module))]
    exchanged = [(module, fused) for module, fused in found if _same(model, module, fused)]
    for module, fused in exchanged:
        module.forward = fused
    return len(exchanged)


def _norm(module: Any) -> Forward | None:
    """Norms by the root mean square (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    epsilon = getattr(module, "variance_epsilon", None)
    if epsilon is None or not isinstance(getattr(module, "weight", None), nn.Parameter):
        return None
    return lambda states: _RmsNorm.apply(states, module.weight, float(epsilon))  # type: ignore[no-untyped-call]


def _feed_forward(module: Any) -> Forward | None:
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in ("gate_proj", "up_proj", "down_proj")):
        return None
    if type(getattr(module, "act_fn", None)).__name__ not in ("SiLU", "SiLUActivation"):
        return None

    def forward(states: Tensor) -> Tensor:
        inner: Tensor = _Gated.apply(module.gate_proj(states), module.up_proj(states))  # type: ignore[no-untyped-call]
        output: Tensor = module.down_proj(inner)
        return output

    return forward


@torch.no_grad()
def _same(model: PreTrainedModel, module: nn.Module, fused: Forward) -> bool:
    width = model.config.get_text_config().hidden_size
    random = torch.Generator().manual_seed(0)
    states = torch.randn(1, PROOF_TOKENS, width, generator=random).to(model.device, model.dtype)
    try:
        own, ours = module(states), fused(states)
    except (RuntimeError, TypeError):  # it takes something else than hidden states
        return False
    difference = (own - ours).abs().max()
    return bool(difference <= PROOF_TOLERANCE[own.dtype] * own.abs().max())


class _RmsNorm(torch.autograd.Function):
    """y = w x / sqrt(mean(x^2) + e), the quotient in fp32 and rounded to x's precision before w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        scale = (torch.linalg.vecdot(wide, wide).unsqueeze(-1) / x.shape[-1] + epsilon).rsqrt_()
        ctx.save_for_backward(x, weight_H, scale)
        y: Tensor = (wide * scale).to(x.dtype) * weight_H
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight_H, scale = ctx.saved_tensors
        unit = x.float() * scale
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * unit.to(grad.dtype)).flatten(0, -2).sum(0).to(weight_H.dtype)
        pull = (grad * weight_H).float()
        along = torch.linalg.vecdot(pull, unit).unsqueeze(-1) / x.shape[-1]
        return pull.addcmul_(unit, along, value=-1).mul_(scale).to(x.dtype), grad_weight, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up
