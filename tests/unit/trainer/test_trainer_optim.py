"""The schedule's values, the clipped norm, and an optimiser that comes back as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feinschliff.formats.recipe import Optimisation
from feinschliff.trainer import optim


def rates(steps: int, **settings: object) -> list[float]:
    recipe = Optimisation.model_validate({"learning_rate": 1.0, **settings})
    return [optim.learning_rate(step, steps, recipe) for step in range(steps)]


def test_linear_warm_up_reaches_the_rate_and_decay_never_reaches_zero() -> None:
    assert rates(10, warmup_fraction=0.2) == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


@pytest.mark.parametrize(
    ("steps", "settings", "expected"),
    [
        (4, {"warmup_fraction": 0.0}, [1, 0.75, 0.5, 0.25]),
        (1, {"warmup_fraction": 0.5}, [1]),
        (4, {"warmup_fraction": 0.5, "schedule": "constant"}, [0.5, 1, 1, 1]),
        (3, {"warmup_fraction": 0.99}, [0.5, 1, 1]),
    ],
)
def test_schedule_values(steps: int, settings: dict[str, object], expected: list[float]) -> None:
    assert rates(steps, **settings) == pytest.approx(expected)


def test_no_step_of_any_length_has_rate_zero() -> None:
    for steps in range(1, 60):
        assert all(0 < rate <= 1 for rate in rates(steps, warmup_fraction=0.3))


def test_gradients_are_scaled_to_the_joint_norm() -> None:
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])

    assert optim.clip(weights, 1.0) == pytest.approx(5.0)
    assert weights[0].grad.tolist() == pytest.approx([0.6, 0.0])
    assert optim.clip(weights, 10.0) == pytest.approx(1.0)
    assert weights[0].grad.tolist() == pytest.approx([0.6, 0.0])


def _steps(weights: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        torch.manual_seed(seed)
        for weight in weights.values():
            weight.grad = torch.randn_like(weight)
        optimiser.step()


def test_a_restored_optimiser_goes_on_bit_for_bit() -> None:
    settings = Optimisation(learning_rate=0.1, weight_decay=0.01)
    weights = {name: nn.Parameter(torch.ones(3, 2)) for name in ("a", "b")}
    optimiser = optim.adamw(weights, settings)
    _steps(weights, optimiser, range(3))
    kept = {name: nn.Parameter(weight.detach().clone()) for name, weight in weights.items()}
    tensors = {name: tensor.clone() for name, tensor in optim.state_tensors(optimiser, weights).items()}
    _steps(weights, optimiser, range(3, 6))

    resumed = optim.adamw(kept, settings)
    optim.restore(resumed, kept, tensors)
    _steps(kept, resumed, range(3, 6))

    assert all(torch.equal(weights[name], kept[name]) for name in weights)


def test_an_optimiser_that_made_no_step_has_no_memory() -> None:
    weights = {"a": nn.Parameter(torch.ones(2))}

    assert optim.state_tensors(optim.adamw(weights, Optimisation()), weights) == {}
