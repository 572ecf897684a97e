"""Weights of the base itself that train: kept in fp32, and rounded in each pass of a model that computes in bf16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Rounded(nn.Module):
    """The weight that products see; its gradient reaches the fp32 weight behind it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, weight: Tensor) -> Tensor:
        return weight.to(self._dtype)


def let_train(model: nn.Module, chosen: Iterable[nn.Parameter]) -> None:
    """Let `chosen` train in fp32; modules that share a weight go on sharing it.

    An update too small for bf16 is summed up in fp32, as mixed precision does. An fp32 model pays nothing for this.
    """
    masters: dict[nn.Parameter, nn.Parameter] = {weight: nn.Parameter(weight.detach().float()) for weight in chosen}
    for module in list(model.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight in masters:
                setattr(module, name, masters[weight])
                if weight.dtype != torch.float32:
                    parametrize.register_parametrization(module, name, Rounded(weight.dtype), unsafe=True)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that train, by the names that they have in the base."""
    return {plain(name): weight for name, weight in model.named_parameters() if weight.requires_grad}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of the model by the names that they have in the base; those that train in fp32."""
    return {plain(name): tensor for name, tensor in model.state_dict().items()}


def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite tensors of the model in place."""
    targets = tensors_of(model)
    for name, tensor in tensors.items():
        targets[name].copy_(tensor)


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in fp32 with nothing around its weights; uses up `model`."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    plain_model = nn.Module.to(model, torch.float32)
    return cast("PreTrainedModel", plain_model.requires_grad_(False).train(False))


def transformer(model: PreTrainedModel) -> PreTrainedModel:
    return model


def plain(name: str) -> str:
    """A weight's name without the traces of its rounding."""
    return name.removesuffix(".original").replace(".parametrizations.", ".")
