"""The products of a LoRA layer for training: base and adapter summed in one pass, in the precision of the base."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feinschliff.lm.adaptations.pefts import LoraLinear, PeftModel
from feinschliff.lm.quantised import QuantisedLinear, weight_for_product


def use_fused_products(model: PeftModel, adapter: str) -> None:
    """Give every adapted plain linear layer the fused forward pass; layers with dropout keep PEFT's own.

    The adapter's fp32 weights are rounded to the base's precision for the products, as mixed precision does, and
    collect their updates in fp32. PEFT's pass widens the inputs to fp32 instead: the same error against a model in
    fp32, 1.2x the time of a step on a CPU with bf16.
    """
    for module in model.modules():
        if type(module) is LoraLinear and _fusible(module, adapter):
            module.__class__ = FusedLoraLinear


class FusedLoraLinear(LoraLinear):
    """PEFT's LoRA layer with one active adapter, never merged."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or args or kwargs:
            return super().forward(x, *args, **kwargs)
        (adapter,) = self.active_adapters
        base = self.get_base_layer()
        output: Tensor = _LoraProduct.apply(  # type: ignore[no-untyped-call]
            x,
            base,
            self.lora_A[adapter].weight,
            self.lora_B[adapter].weight,
            self.scaling[adapter],
        )
        return output


class _LoraProduct(torch.autograd.Function):
    """y = x W' + b + s (x A') B', with gradients for x, A and B; W and b are frozen.

    The layer is kept and not its weight, which may be widened from fewer bits each time it is asked for.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Linear, a_RI: Tensor, b_OR: Tensor, scale: float) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        a_RI, b_OR = a_RI.to(x.dtype), b_OR.to(x.dtype)
        down_TR = x_TI @ a_RI.T
        y_TO = F.linear(x_TI, weight_for_product(base), base.bias)
        y_TO.addmm_(down_TR, b_OR.T, alpha=scale)
        ctx.save_for_backward(x_TI, a_RI, b_OR, down_TR)
        ctx.base, ctx.scale, ctx.shape = base, scale, x.shape
        return y_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        x_TI, a_RI, b_OR, down_TR = ctx.saved_tensors
        wants_x, _, wants_a, wants_b, _ = ctx.needs_input_grad  # a schedule may rest A or B for a while
        grad_TO = grad.reshape(-1, grad.shape[-1])
        grad_down_TR = (grad_TO @ b_OR).mul_(ctx.scale)
        grad_x, grad_a_RI, grad_b_OR = None, None, None
        if wants_a:
            grad_a_RI = (grad_down_TR.T @ x_TI).float()
        if wants_b:
            grad_b_OR = (grad_TO.T @ down_TR).mul_(ctx.scale).float()
        if wants_x:
            grad_x = (grad_TO @ weight_for_product(ctx.base)).addmm_(grad_down_TR, a_RI).view(ctx.shape)
        return grad_x, None, grad_a_RI, grad_b_OR, None


def _fusible(module: LoraLinear, adapter: str) -> bool:
    return (
        type(module.get_base_layer()) in (nn.Linear, QuantisedLinear)
        and adapter in module.lora_A
        and not module.lora_variant
        and isinstance(module.lora_dropout[adapter], nn.Identity)
    )
