"""The optimiser, its schedule, and their form in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from feinschliff.formats.optimisation import Optimisation
from feinschliff.trainer.adamw_8bit import AdamW8bit

_SHARE = "share_of_rate"


def build(
    parameters: Mapping[str, nn.Parameter], settings: Optimisation, rate_shares: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """What the recipe names.

    Args:
        rate_shares: share of the learning rate that a weight has, by name; one that is not named has all of it.
    """
    shares = rate_shares or {}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in parameters.items():
        groups.setdefault(shares.get(name, 1.0), []).append(weight)
    return OPTIMISERS[settings.optimiser](
        [{"params": weights, _SHARE: share} for share, weights in groups.items()], settings
    )


def adamw(groups: list[dict[str, Any]], settings: Optimisation) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with one fused kernel for each weight."""
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def adamw_8bit(groups: list[dict[str, Any]], settings: Optimisation) -> torch.optim.Optimizer:
    """The same with its memory in 8 bits."""
    return AdamW8bit(
        groups,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )


OPTIMISERS: Mapping[str, Callable[[list[dict[str, Any]], Optimisation], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "adamw_8bit": adamw_8bit,
}


def learning_rate(step: int, steps_total: int, settings: Optimisation) -> float:
    """Rate of the step that follows `step` done ones, 0 <= step < steps_total.

    Linear warm-up reaches the full rate with its last step; from there it goes by the schedule, which would be at
    `final_rate_fraction` of the rate one step after the last. No step has rate 0.
    """
    warmup = warmup_steps(steps_total, settings)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    falling = falling_steps(steps_total, settings)
    final = settings.learning_rate * settings.final_rate_fraction
    fall = SCHEDULES[settings.schedule]
    return final + fall(settings.learning_rate - final, min(steps_total - step, falling), falling)


def linear(rate: float, left: int, steps: int) -> float:
    """In a straight line from `rate`, where all `steps` are left, to 0, where none is."""
    return rate * left / steps


def constant(rate: float, left: int, steps: int) -> float:
    return rate


def cosine(rate: float, left: int, steps: int) -> float:
    """Along half a cosine to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983, one cycle).

    (1 + cos x) / 2 with x from 0 to pi, as a square of a sine, which does not round to 0 before the end.
    """
    return rate * math.sin(math.pi / 2 * left / steps) ** 2


SCHEDULES: Mapping[str, Callable[[float, int, int], float]] = {
    "linear": linear,
    "constant": constant,
    "cosine": cosine,
    "wsd": linear,
}


def warmup_steps(steps_total: int, settings: Optimisation) -> int:
    return min(steps_total - 1, math.ceil(settings.warmup_fraction * steps_total))


def falling_steps(steps_total: int, settings: Optimisation) -> int:
    """Steps at the end in which the rate may fall: all after the warm-up, or the last ones.

    Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395): a run can be stopped, or go on, at any stable step, and
    a tenth of the steps or more for the decay is as good as a cosine; Hägele et al. 2024 (arXiv:2405.18392) take 20 %
    and find a straight line to do well.
    """
    after_warmup = steps_total - warmup_steps(steps_total, settings)
    if settings.schedule != "wsd":
        return after_warmup
    return min(after_warmup, math.ceil(settings.decay_fraction * steps_total))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give each weight its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get(_SHARE, 1.0)


def clip(parameters: Iterable[nn.Parameter], norm_max: float) -> float:
    """Scale gradients so that their joint norm is at most `norm_max`; returns the norm before."""
    return float(nn.utils.clip_grad_norm_(list(parameters), norm_max))


def state_tensors(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimiser's memory, named by weight; a weight that never moved has none."""
    return {
        f"{name}/{part}": tensor.contiguous()
        for name, parameter in parameters.items()
        if parameter in optimiser.state
        for part, tensor in optimiser.state[parameter].items()
    }


def restore(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put `state_tensors` back."""
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        parameter = parameters[name]
        optimiser.state[parameter][part] = tensor.to(parameter.device)
