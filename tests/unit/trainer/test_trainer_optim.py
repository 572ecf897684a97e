"""The schedule's values, the clipped norm, and an optimiser that comes back as it was."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
        (4, {"warmup_fraction": 0.0, "schedule": "cosine"}, [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]),
        (5, {"warmup_fraction": 0.2, "schedule": "cosine"}, [1, 1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]),
        (1, {"warmup_fraction": 0.0, "schedule": "cosine"}, [1]),
    ],
)
def test_schedule_values(steps: int, settings: dict[str, object], expected: list[float]) -> None:
    assert rates(steps, **settings) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", sorted(optim.SCHEDULES))
def test_every_schedule_is_one_of_the_recipe(schedule: str) -> None:
    assert Optimisation.model_validate({"schedule": schedule}).schedule == schedule


@pytest.mark.parametrize("schedule", sorted(optim.SCHEDULES))
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_rates_rise_to_the_highest_then_never_rise_again_and_none_is_zero(schedule: str, warmup: float) -> None:
    for steps in range(1, 60):
        found = rates(steps, warmup_fraction=warmup, schedule=schedule)
        top = found.index(1.0)
        assert found[: top + 1] == sorted(set(found[: top + 1]))
        assert found[top:] == sorted(found[top:], reverse=True)
        assert all(0 < rate <= 1 for rate in found)


@given(steps=st.integers(1, 10_000_000))
def test_no_schedule_rounds_its_last_step_to_nothing(steps: int) -> None:
    assert all(schedule(2e-4, 1, steps) > 0 for schedule in optim.SCHEDULES.values())
    assert all(schedule(2e-4, steps, steps) == pytest.approx(2e-4) for schedule in optim.SCHEDULES.values())


@given(done=st.integers(0, 500), steps=st.integers(501, 600))
def test_a_cosine_is_the_mean_of_its_mirror_images(done: int, steps: int) -> None:
    left = steps - done

    assert optim.cosine(1.0, left, steps) + optim.cosine(1.0, done, steps) == pytest.approx(1)
    assert optim.cosine(1.0, left, steps) == pytest.approx((1 + math.cos(math.pi * done / steps)) / 2)


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
