"""A fully trained model cut among the processes (FSDP2): each keeps a part of weights, gradients and optimiser.

Zhao et al. 2023 (arXiv:2304.11277), after ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054). The layers and the last
norm are cut along the first dimension of each weight and put together when they compute. Embeddings, and a head, stay
whole in each process: the loss takes the head's weight apart by itself, a different number of times in each process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from feinschliff.lm.adaptations import full, own_weights
from feinschliff.lm.adaptations.last_layers import layers_of
from feinschliff.lm.load import load_model
from feinschliff.trainer.learner import Learner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Sharded:
    """Keeps a fully trained model that is cut; see `lm.adaptations.Keep`.

    `gather` comes before `save` and is called by all processes; only the first keeps what it brings.
    """

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._whole: dict[str, Tensor] = {}

    def gather(self, model: PreTrainedModel) -> None:
        """Put the weights together in this process's memory."""
        self._whole = {}  # never two of them
        self._whole = whole(own_weights.tensors_of(model), keeps=self._keeps)

    def save(self, model: PreTrainedModel, folder: Path, *, base_model: str) -> None:
        full.write(model, folder, self._whole)

    def restore(self, model: PreTrainedModel, folder: Path) -> None:
        targets = own_weights.tensors_of(model)
        with torch.no_grad():
            for name, tensor in load_model(folder, precision="fp32").state_dict().items():
                target = targets[name]
                target.copy_(cut_like(target, tensor) if isinstance(target, DTensor) else tensor)

    def trained(self, model: PreTrainedModel) -> dict[str, nn.Parameter]:
        return full.trained(model)

    def transformer(self, model: PreTrainedModel) -> PreTrainedModel:
        return model


def cut(learner: Learner, *, keeps: bool) -> Learner:
    """The same learner, of which this process keeps its part; every process calls this.

    Args:
        keeps: whether this process will write what is saved.
    """
    model = cast("PreTrainedModel", learner.adapted)
    mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    whole_weights = {*model.get_input_embeddings().parameters(), *_outside(model)}
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model.base_model, mesh=mesh, ignored_params=whole_weights)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # a step's gradient is a sum, divided by its labels already
            module.set_force_sum_reduction_for_comms(True)
    return replace(learner, adaptation=Sharded(keeps=keeps))


def whole(tensors: Mapping[str, Tensor], *, keeps: bool) -> dict[str, Tensor]:
    """Cut tensors put together, one after the other; nothing where this process does not keep them."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        complete = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        if keeps:
            kept[name] = complete
    return kept


def cut_states(optimiser: torch.optim.Optimizer) -> None:
    """Cut an optimiser's memory that came whole from a checkpoint."""
    for weight, state in optimiser.state.items():
        for part, tensor in state.items():
            if isinstance(weight, DTensor) and not isinstance(tensor, DTensor) and tensor.shape == weight.shape:
                state[part] = cut_like(weight, tensor)


def separate_groups(optimiser: torch.optim.Optimizer) -> None:
    """Cut and whole weights in groups of their own: one fused kernel does not take both."""
    groups = []
    for group in optimiser.param_groups:
        for is_cut in (True, False):
            weights = [weight for weight in group["params"] if isinstance(weight, DTensor) is is_cut]
            if weights:
                groups.append({**group, "params": weights})
    optimiser.param_groups[:] = groups


def clip(weights: list[nn.Parameter], norm_max: float, sum_over: Callable[[list[float]], list[float]]) -> float:
    """Scale gradients so that the norm of all of them, in all processes, is at most `norm_max`; the norm before."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    parts = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    wholes = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    (square,) = sum_over([sum(_square(part) for part in parts)])
    norm = float((square + sum(_square(gradient) for gradient in wholes)) ** 0.5)
    for gradient in [*parts, *wholes]:
        gradient.mul_(min(1.0, norm_max / (norm + 1e-6)))
    return norm


def cut_like(target: DTensor, tensor: Tensor) -> DTensor:
    """This process's part of a tensor that every process has."""
    there = tensor.to(target.device)
    return distribute_tensor(there, target.device_mesh, target.placements, src_data_rank=None)


def _square(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _outside(model: PreTrainedModel) -> set[nn.Parameter]:
    """Weights that are none of the part that makes hidden states."""
    return set(model.parameters()) - set(model.base_model.parameters())
