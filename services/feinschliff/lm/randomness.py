"""Whether a model in training is a fixed function of its inputs, or draws random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from feinschliff.lm.rows_attention import rows_apart

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def draws(model: PreTrainedModel, compute: Callable[[], Tensor]) -> bool:
    """Whether `compute`, a forward pass over a batch of rows, takes anything from the generators in training (dropout).

    Generators and the model's mode are afterwards what they were.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    was_training = model.training
    with torch.random.fork_rng(devices), rows_apart(model), torch.no_grad():
        before = _random_states(devices)
        model.train()
        compute()
        model.train(was_training)
        return any(not torch.equal(*pair) for pair in zip(before, _random_states(devices), strict=True))


def _random_states(devices: list[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
