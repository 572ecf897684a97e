"""The schedule's values, the clipped norm, and an optimiser that comes back as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from feinschliff.formats.optimisation import Optimisation
from feinschliff.trainer import adamw_8bit, optim
from feinschliff.trainer.adamw_8bit import Levels, levels


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
        (8, {"warmup_fraction": 0.25, "schedule": "wsd", "decay_fraction": 0.5}, [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        (10, {"warmup_fraction": 0.0, "schedule": "wsd"}, [1] * 9 + [0.5]),
        (3, {"warmup_fraction": 0.0, "schedule": "wsd", "decay_fraction": 0.01}, [1, 1, 1]),
        (4, {"warmup_fraction": 0.5, "schedule": "wsd", "decay_fraction": 1.0}, [0.5, 1, 1, 0.5]),
        (4, {"warmup_fraction": 0.0, "final_rate_fraction": 0.2}, [1, 0.8, 0.6, 0.4]),
        (
            4,
            {"warmup_fraction": 0.0, "schedule": "cosine", "final_rate_fraction": 0.5},
            [1, (6 + 2**0.5) / 8, 0.75, (6 - 2**0.5) / 8],
        ),
        (
            4,
            {"warmup_fraction": 0.0, "schedule": "wsd", "decay_fraction": 0.5, "final_rate_fraction": 0.5},
            [1, 1, 1, 0.75],
        ),
        (4, {"warmup_fraction": 0.0, "final_rate_fraction": 1.0}, [1, 1, 1, 1]),
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


def test_without_a_final_rate_no_bit_of_a_rate_changes() -> None:
    settings = Optimisation(learning_rate=2e-4, warmup_fraction=0.1)
    for step in range(3, 29):
        assert optim.learning_rate(step, 29, settings) == 2e-4 * (29 - step) / 26


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"schedule": "constant", "final_rate_fraction": 0.1}, "final_rate_fraction"),
        ({"schedule": "linear", "decay_fraction": 0.5}, "decay_fraction"),
    ],
)
def test_numbers_that_a_schedule_does_not_read_are_refused(settings: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Optimisation.model_validate(settings)


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


def settings_of(optimiser: str, **others: object) -> Optimisation:
    return Optimisation.model_validate({"optimiser": optimiser, "learning_rate": 0.1, **others})


def ones(*sizes: tuple[int, ...]) -> dict[str, nn.Parameter]:
    return {f"weight.{k}": nn.Parameter(torch.ones(size)) for k, size in enumerate(sizes)}


@pytest.mark.parametrize("optimiser", sorted(optim.OPTIMISERS))
def test_a_restored_optimiser_goes_on_bit_for_bit(optimiser: str, tmp_path: Path) -> None:
    settings = settings_of(optimiser, weight_decay=0.01)
    weights = ones((3, 2), (70, 65))
    made = optim.build(weights, settings)
    _steps(weights, made, range(3))
    kept = {name: nn.Parameter(weight.detach().clone()) for name, weight in weights.items()}
    save_file(optim.state_tensors(made, weights), tmp_path / "optimiser")
    _steps(weights, made, range(3, 6))

    resumed = optim.build(kept, settings)
    optim.restore(resumed, kept, load_file(tmp_path / "optimiser"))
    _steps(kept, resumed, range(3, 6))

    assert all(torch.equal(weights[name], kept[name]) for name in weights)


@pytest.mark.parametrize("optimiser", sorted(optim.OPTIMISERS))
def test_an_optimiser_that_made_no_step_has_no_memory(optimiser: str) -> None:
    weights = ones((2,))

    assert optim.state_tensors(optim.build(weights, settings_of(optimiser)), weights) == {}


def test_every_optimiser_of_the_recipe_can_be_built() -> None:
    for optimiser in optim.OPTIMISERS:
        assert settings_of(optimiser).optimiser == optimiser


def test_weights_have_their_share_of_the_rate() -> None:
    weights = ones((2,), (2,), (2,))
    made = optim.build(weights, settings_of("adamw"), {"weight.1": 0.5, "weight.2": 0.25})
    optim.set_learning_rate(made, 0.4)

    rates = {
        name: group["lr"] for group in made.param_groups for name in weights if weights[name] in set(group["params"])
    }
    assert rates == {"weight.0": 0.4, "weight.1": 0.2, "weight.2": 0.1}


def test_8_bits_move_as_32_do_in_a_quarter_of_the_memory() -> None:
    """Ill-conditioned squares: both come as near to the least."""
    torch.manual_seed(0)
    scales, target = torch.logspace(-2, 2, 128 * 128).reshape(128, 128), torch.randn(128, 128)
    losses, memory = {}, {}
    for optimiser in optim.OPTIMISERS:
        weights = ones((128, 128))
        made = optim.build(weights, settings_of(optimiser))
        for step in range(200):
            optim.set_learning_rate(made, 0.1 * (1 - step / 200))
            loss = (scales * (weights["weight.0"] - target) ** 2).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            made.step()
            made.zero_grad()
        losses[optimiser] = loss.item()
        memory[optimiser] = sum(one.nbytes for one in optim.state_tensors(made, weights).values())

    assert losses["adamw"] < 0.05
    assert losses["adamw_8bit"] == pytest.approx(losses["adamw"], rel=0.05)
    assert memory["adamw_8bit"] < 0.26 * memory["adamw"]


def test_8_bits_keep_small_weights_exactly() -> None:
    exact, rounded = ones((63, 65)), ones((63, 65))
    optimisers = optim.build(exact, settings_of("adamw")), optim.build(rounded, settings_of("adamw_8bit"))
    _steps(exact, optimisers[0], range(9))
    _steps(rounded, optimisers[1], range(9))

    torch.testing.assert_close(exact["weight.0"], rounded["weight.0"])


def test_8_bits_never_step_out_of_a_mean_square_that_rounds_to_nothing() -> None:
    """A number with a tiny gradient beside one with a huge one, and then none at all."""
    weights = ones((64, 64))
    made = optim.build(weights, settings_of("adamw_8bit"))
    for size in (1.0, 1.0, 0.0, 0.0, 0.0):
        gradient = torch.full((64, 64), 0.1 * size)
        gradient[0, 0] = 1e3 * size
        weights["weight.0"].grad = gradient
        made.step()

    assert torch.isfinite(weights["weight.0"]).all()
    assert float((weights["weight.0"].detach() - 1).abs().max()) < 5 * 0.1 * 3


@pytest.mark.parametrize("signed", [True, False])
def test_the_levels_are_those_of_the_papers_own_code(signed: bool) -> None:
    from bitsandbytes.functional import create_dynamic_map

    theirs = create_dynamic_map(signed=signed)  # type: ignore[no-untyped-call]
    assert torch.equal(levels(signed=signed), theirs)


@pytest.mark.parametrize("signed", [True, False])
def test_every_number_takes_its_nearest_level(signed: bool) -> None:
    torch.manual_seed(0)
    drawn = torch.cat([torch.randn(5000), torch.randn(5000) ** 9, 10 ** (torch.rand(5001) * 12 - 12), torch.zeros(300)])
    numbers = drawn if signed else drawn.abs()
    kind = Levels(signed=signed)
    places, scales = kind.rounded(numbers)

    relative = numbers / scales.repeat_interleave(256)[: len(numbers)].clamp(min=1e-38)
    nearest = (relative[:, None] - kind.levels).abs().amin(1)
    found = (relative - kind.levels[places.long()]).abs()
    if not signed:
        up = (numbers > 0) & (relative < kind.levels[1] / 2)
        assert set(places[up].tolist()) == {1}
        nearest, found = nearest[~up], found[~up]
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-9)
    assert torch.equal(kind.widened(places, scales)[-300:], torch.zeros(300))


def test_8_bits_are_moved_in_pieces_as_if_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = ones((70, 130)), ones((70, 130))
    _steps(whole, optim.build(whole, settings_of("adamw_8bit")), range(4))
    monkeypatch.setattr(adamw_8bit, "CHUNK_NUMBERS", 1024)
    _steps(cut, optim.build(cut, settings_of("adamw_8bit")), range(4))

    assert torch.equal(whole["weight.0"], cut["weight.0"])
