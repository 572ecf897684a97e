"""The optimiser, its schedule, and their form in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from feinschliff.formats.recipe import Optimisation

_STATE = ("step", "exp_avg", "exp_avg_sq")


def adamw(parameters: Mapping[str, nn.Parameter], settings: Optimisation) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with one fused kernel for each weight."""
    return torch.optim.AdamW(
        list(parameters.values()),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def learning_rate(step: int, steps_total: int, settings: Optimisation) -> float:
    """Rate of the step that follows `step` done ones, 0 <= step < steps_total.

    Linear warm-up reaches the full rate with its last step; from there it goes by the schedule, which would be 0 one
    step after the last where it falls to 0. No step has rate 0.
    """
    warmup = warmup_steps(steps_total, settings)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return SCHEDULES[settings.schedule](settings.learning_rate, steps_total - step, steps_total - warmup)


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
}


def warmup_steps(steps_total: int, settings: Optimisation) -> int:
    return min(steps_total - 1, math.ceil(settings.warmup_fraction * steps_total))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def clip(parameters: Iterable[nn.Parameter], norm_max: float) -> float:
    """Scale gradients so that their joint norm is at most `norm_max`; returns the norm before."""
    return float(nn.utils.clip_grad_norm_(list(parameters), norm_max))


def state_tensors(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimiser's memory, named by weight; empty before the first step."""
    return {
        f"{name}/{part}": optimiser.state[parameter][part].contiguous()
        for name, parameter in parameters.items()
        if parameter in optimiser.state
        for part in _STATE
    }


def restore(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put `state_tensors` back."""
    for name, parameter in parameters.items():
        if f"{name}/step" in tensors:
            optimiser.state[parameter] = {part: tensors[f"{name}/{part}"].to(parameter.device) for part in _STATE}
