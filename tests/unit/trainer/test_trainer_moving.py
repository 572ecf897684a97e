"""What moves in a step follows from the step, the seed and the names; everything else stays exactly as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from feinschliff.formats.adaptations import Full, Ia3, LastLayers, Lora
from feinschliff.formats.optimisation import GradualUnfreezing, HalfFineTuning, Optimisation, UpdateSchedule
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.load import load_model
from feinschliff.trainer import optim
from feinschliff.trainer.moving import (
    ABOVE,
    BELOW,
    AllMove,
    Moving,
    Place,
    Unfreezing,
    at_rest,
    halves,
    matrix_of,
    moving_of,
    places_of,
    unfreezing,
)

EPOCH = 10
MATRICES = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")


def llama(layers: int) -> dict[str, Place]:
    """The places of a whole model's weights."""
    places = {"embeddings": Place(BELOW), "norm": Place(ABOVE), "head": Place(ABOVE)}
    for layer in range(layers):
        places |= {f"{layer}.{matrix}": Place(layer, matrix) for matrix in MATRICES}
        places |= {f"{layer}.{norm}": Place(layer, norm, is_vector=True) for norm in ("first_norm", "second_norm")}
    return places


def learning(plan: Unfreezing, places: dict[str, Place], step: int) -> set[int | str]:
    return {places[name].layer for name in places.keys() - plan.resting(step)}


def test_groups_join_from_the_top_at_their_epoch() -> None:
    places = llama(5)
    plan = unfreezing(GradualUnfreezing(epochs_per_group=0.5, layers_per_group=2), places, epoch=EPOCH)

    assert learning(plan, places, 0) == learning(plan, places, 4) == {ABOVE, 4, 3}
    assert learning(plan, places, 5) == learning(plan, places, 9) == {ABOVE, 4, 3, 2, 1}
    assert plan.resting(10) == plan.resting(1000) == frozenset()


def test_a_group_joins_at_the_first_step_that_is_not_too_early() -> None:
    plan = unfreezing(GradualUnfreezing(epochs_per_group=0.25), llama(3), epoch=EPOCH)

    assert [group.first_step for group in plan.groups] == [0, 3, 5]


def test_a_plan_by_epoch_says_how_many_layers_learn_and_its_last_number_stays() -> None:
    places = llama(6)
    plan = unfreezing(GradualUnfreezing(layers_by_epoch=[1, 1, 4]), places, epoch=EPOCH)

    assert learning(plan, places, 0) == learning(plan, places, 2 * EPOCH - 1) == {ABOVE, 5}
    assert learning(plan, places, 2 * EPOCH) == learning(plan, places, 99 * EPOCH) == {ABOVE, 5, 4, 3, 2}


def test_only_layers_that_learn_are_counted() -> None:
    places = {name: place for name, place in llama(6).items() if place.layer in (4, 5, ABOVE)}
    plan = unfreezing(GradualUnfreezing(), places, epoch=EPOCH)

    assert learning(plan, places, 0) == {ABOVE, 5}
    assert plan.resting(EPOCH) == frozenset()


def test_each_group_learns_at_the_rate_of_the_one_above_divided() -> None:
    places = llama(3)
    shares = unfreezing(GradualUnfreezing(rate_divisor=2.6), places, epoch=EPOCH).rate_shares

    found = {place.layer: shares[name] for name, place in places.items()}
    assert found == pytest.approx({ABOVE: 1, 2: 1, 1: 1 / 2.6, 0: 1 / 2.6**2, BELOW: 1 / 2.6**2})


def test_the_plan_is_told_and_what_it_does_not_reach() -> None:
    plan = unfreezing(GradualUnfreezing(layers_per_group=2), llama(5), epoch=EPOCH)

    told = plan.description(2 * EPOCH)
    assert told.startswith("The top layers learn first: 2 from step 1, 4 from step 11, 5 from step 21, of 5.")
    assert "before 1 of these groups" in told
    assert "before" not in plan.description(3 * EPOCH)


@pytest.mark.parametrize(
    ("settings", "layers", "reason"),
    [
        (GradualUnfreezing(layers_by_epoch=[2, 7]), 6, "LAYERS_TOO_MANY"),
        (GradualUnfreezing(), 1, "UPDATE_SCHEDULE_UNFIT"),
        (GradualUnfreezing(), 0, "UPDATE_SCHEDULE_UNFIT"),
    ],
)
def test_a_plan_that_the_layers_cannot_follow_is_refused(settings: GradualUnfreezing, layers: int, reason: str) -> None:
    with pytest.raises(Invalid) as refused:
        unfreezing(settings, llama(layers), epoch=EPOCH)
    assert refused.value.reason == reason


@given(layers=st.integers(1, 9), seed=st.integers(0, 2**31 - 1), pair=st.integers(0, 3))
def test_half_of_the_matrices_move_and_the_other_half_in_the_next_round(layers: int, seed: int, pair: int) -> None:
    places = llama(layers)
    plan = halves(HalfFineTuning(steps_per_round=3), places, epoch=EPOCH, seed=seed)

    first, second = plan.resting(6 * pair), plan.resting(6 * pair + 3)
    inside = {name for name, place in places.items() if isinstance(place.layer, int)}
    assert first | second == inside
    assert not first & second
    for resting in (first, second):
        kinds = Counter((places[name].layer, _kind(places[name])) for name in resting)
        for layer in range(layers):
            assert kinds[layer, "self_attn"] == 2
            assert kinds[layer, "norm"] == 1
            assert kinds[layer, "mlp"] in (1, 2)
        assert abs(2 * len(resting) - len(inside)) <= 1
    assert plan.resting(6 * pair) == plan.resting(6 * pair + 2)


def _kind(place: Place) -> str:
    return "norm" if place.is_vector else place.matrix.split(".")[0]


def test_rounds_last_an_epoch_unless_told_and_pairs_draw_anew() -> None:
    plan = halves(HalfFineTuning(), llama(8), epoch=EPOCH, seed=1)

    assert plan.resting(0) == plan.resting(EPOCH - 1) != plan.resting(EPOCH)
    assert plan.resting(2 * EPOCH) not in (plan.resting(0), plan.resting(EPOCH))
    assert plan.resting(0) == halves(HalfFineTuning(), llama(8), epoch=EPOCH, seed=1).resting(0)
    assert plan.resting(0) != halves(HalfFineTuning(), llama(8), epoch=EPOCH, seed=2).resting(0)


@given(seed=st.integers(0, 1000), layers=st.integers(1, 4), kinds=st.integers(1, 3))
def test_however_few_matrices_there_are_some_move_in_every_round(seed: int, layers: int, kinds: int) -> None:
    places = {f"{layer}.{kind}": Place(layer, f"{kind}.only") for layer in range(layers) for kind in range(kinds)}
    if len(places) < 2:
        with pytest.raises(Invalid, match="two matrices"):
            halves(HalfFineTuning(), places, epoch=1, seed=seed)
        return
    plan = halves(HalfFineTuning(), places, epoch=1, seed=seed)

    assert all(0 < len(plan.resting(step)) < len(places) for step in range(6))


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("self_attn.q_proj.weight", "self_attn.q_proj"),
        ("self_attn.q_proj.bias", "self_attn.q_proj"),
        ("self_attn.q_proj.parametrizations.weight.original", "self_attn.q_proj"),
        ("self_attn.q_proj.lora_A.default.weight", "self_attn.q_proj"),
        ("self_attn.q_proj.lora_magnitude_vector.default.weight", "self_attn.q_proj"),
        ("mlp.down_proj.ia3_l.default", "mlp.down_proj"),
        ("mlp.experts.3.up_proj.weight", "mlp.experts.3.up_proj"),
        ("input_layernorm.weight", "input_layernorm"),
    ],
)
def test_adapters_and_biases_belong_to_the_matrix_that_they_stand_beside(name: str, matrix: str) -> None:
    assert matrix_of(name) == matrix


@pytest.fixture(params=["fp32", "bf16"])
def model(request: pytest.FixtureRequest, tiny_model: Path) -> PreTrainedModel:
    return load_model(tiny_model, precision=request.param)


@pytest.mark.parametrize(
    ("settings", "outside"),
    [
        (Full(), {"model.norm.weight": ABOVE}),
        (Full(train_embeddings=True), {"model.norm.weight": ABOVE, "model.embed_tokens.weight": BELOW}),
        (LastLayers(layers=2), {"model.norm.weight": ABOVE, "lm_head.weight": ABOVE}),
        (Lora(), {}),
        (Ia3(), {}),
    ],
    ids=["full", "full-with-embeddings", "last_layers", "lora", "ia3"],
)
def test_the_models_own_structure_says_where_a_weight_stands(
    model: PreTrainedModel, settings: Full | LastLayers | Lora | Ia3, outside: dict[str, str]
) -> None:
    adapt = ADAPTATIONS[settings.kind]
    adapted = adapt.attach(model, settings, seed=0)
    weights = adapt.trained(adapted)
    places = places_of(adapt.transformer(adapted), weights)

    assert places.keys() == weights.keys()
    assert {name: place.layer for name, place in places.items() if isinstance(place.layer, str)} == outside
    for name, place in places.items():
        if isinstance(place.layer, int):
            assert f".layers.{place.layer}.{place.matrix}." in name
    assert {place.layer for place in places.values()} >= {0, 1}


def test_a_weight_that_the_model_does_not_know_stands_above(model: PreTrainedModel) -> None:
    assert places_of(model, {"head.weight": nn.Parameter(torch.zeros(2, 3))})["head.weight"] == Place(ABOVE)


def test_without_a_schedule_everything_moves(model: PreTrainedModel) -> None:
    moving = moving_of(UpdateSchedule(), model, {}, epoch=EPOCH, seed=0)

    assert moving == AllMove()
    assert (moving.resting(0), moving.rate_shares, moving.description(9)) == (frozenset(), {}, "")


def test_resting_weights_ask_for_no_gradient_only_within() -> None:
    weights = {name: nn.Parameter(torch.ones(2)) for name in ("a", "b")}

    def fail_within() -> None:
        with at_rest(weights, {"a"}):
            assert [weight.requires_grad for weight in weights.values()] == [False, True]
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail_within()
    assert all(weight.requires_grad for weight in weights.values())


class ByStep:
    """Rests by hand."""

    @property
    def rate_shares(self) -> dict[str, float]:
        return {"b": 0.5}

    def resting(self, step: int) -> frozenset[str]:
        return frozenset({"a"}) if step < 3 else frozenset()

    def description(self, steps_total: int) -> str:
        return ""


@pytest.mark.parametrize("optimiser", sorted(optim.OPTIMISERS))
def test_a_resting_weight_and_its_memory_stay_as_they_are(optimiser: str) -> None:
    moving: Moving = ByStep()
    settings = Optimisation.model_validate({"learning_rate": 0.1, "weight_decay": 0.1, "optimiser": optimiser})
    weights = {name: nn.Parameter(torch.ones(64, 64)) for name in ("a", "b")}
    made = optim.build(weights, settings, moving.rate_shares)
    for step in range(5):
        before = optim.state_tensors(made, weights) | {name: weight.detach() for name, weight in weights.items()}
        before = {name: tensor.clone() for name, tensor in before.items()}
        with at_rest(weights, moving.resting(step)):
            sum((weight**2).sum() for weight in weights.values()).backward()  # type: ignore[union-attr]
        optim.set_learning_rate(made, 0.1)
        made.step()
        made.zero_grad()
        after = optim.state_tensors(made, weights) | weights
        is_same = {name: torch.equal(before[name], after[name]) for name in before}
        resting = moving.resting(step)
        assert all(same == (name.split("/")[0] in resting) for name, same in is_same.items() if "/" not in name)
        assert all(same for name, same in is_same.items() if name.split("/")[0] in resting)
    steps = {
        name: float(tensor) for name, tensor in optim.state_tensors(made, weights).items() if name.endswith("/step")
    }
    assert steps == {"a/step": 2, "b/step": 5}
    moved = {name: 1 - float(weight.detach().mean()) for name, weight in weights.items()}
    assert moved["b"] == pytest.approx(0.25, rel=0.1)
    assert moved["a"] == pytest.approx(0.2, rel=0.1)
