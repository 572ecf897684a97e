"""Options of a recipe that do not go together are refused when it is made, at the field that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from feinschliff.formats.optimisation import OUTSIDE_LAYERS, GradualUnfreezing, UpdateSchedule
from feinschliff.formats.recipe import Recipe
from feinschliff.kit.errors import Invalid
from feinschliff.training.proto import from_recipe, to_recipe
from feinschliff.v1 import training_pb2 as pb

GRADUAL: dict[str, Any] = {"gradual_unfreezing": {}}
HALF: dict[str, Any] = {"half_fine_tuning": {}}


def recipe(**values: Any) -> Recipe:
    return Recipe.model_validate({"base_model": "pypi:x", "data": [{"dataset_version": "d"}], **values})


@pytest.mark.parametrize(
    ("schedule", "adaptation", "why"),
    [
        *(({"gradual_unfreezing": {}}, {"kind": kind}, "goes by layers") for kind in OUTSIDE_LAYERS),
        *(({"half_fine_tuning": {}}, {"kind": kind}, "goes by layers") for kind in OUTSIDE_LAYERS),
        (HALF, {"kind": "last_layers", "layers": 0}, "halves the matrices of layers"),
        (GRADUAL, {"kind": "last_layers", "layers": 0}, "nothing to add"),
        (GRADUAL, {"kind": "last_layers", "layers": 1}, "nothing to add"),
        ({"gradual_unfreezing": {"layers_per_group": 4}}, {"kind": "last_layers", "layers": 4}, "nothing to add"),
        ({"gradual_unfreezing": {"layers_by_epoch": [1, 3]}}, {"kind": "last_layers"}, "more layers than the 2"),
        ({**GRADUAL, **HALF}, {"kind": "full"}, "exclude each other"),
    ],
)
def test_a_schedule_without_a_choice_is_refused_at_its_field(
    schedule: dict[str, Any], adaptation: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError, match=why) as refused:
        recipe(update_schedule=schedule, adaptation=adaptation)
    assert [error["loc"] for error in refused.value.errors()] == [("update_schedule",)]


@pytest.mark.parametrize(
    ("gradual", "why"),
    [
        ({"layers_by_epoch": [2], "epochs_per_group": 2.0}, "instead of"),
        ({"layers_by_epoch": [2], "layers_per_group": 2}, "instead of"),
        ({"layers_by_epoch": [2, 3, 2]}, "never falls"),
        ({"layers_by_epoch": [0, 3]}, "greater than or equal to 1"),
        ({"rate_divisor": 0.5}, "greater than or equal to 1"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(gradual: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        GradualUnfreezing.model_validate(gradual)


@pytest.mark.parametrize("kind", ["lora", "dora", "full", "last_layers", "ia3", "bottleneck", "qlora"])
@pytest.mark.parametrize("schedule", [GRADUAL, HALF, {"gradual_unfreezing": {"layers_by_epoch": [1, 2]}}])
def test_adaptations_of_layers_take_every_schedule(kind: str, schedule: dict[str, Any]) -> None:
    assert recipe(update_schedule=schedule, adaptation={"kind": kind}).update_schedule.is_set


@pytest.mark.parametrize("kind", OUTSIDE_LAYERS)
def test_no_schedule_goes_with_everything(kind: str) -> None:
    assert recipe(adaptation={"kind": kind}).update_schedule == UpdateSchedule()


@pytest.mark.parametrize(
    "values",
    [
        {
            "update_schedule": {
                "gradual_unfreezing": {"epochs_per_group": 0.5, "layers_per_group": 3, "rate_divisor": 2.6}
            }
        },
        {"update_schedule": {"gradual_unfreezing": {"layers_by_epoch": [1, 2, 2]}}},
        {"update_schedule": {"half_fine_tuning": {"steps_per_round": 7}}},
        {"optimisation": {"schedule": "wsd", "decay_fraction": 0.3, "final_rate_fraction": 0.1, "learning_rate": 1e-4}},
        {"optimisation": {"neftune_alpha": 5.0, "optimiser": "adamw_8bit", "gradient_checkpointing": True}},
    ],
)
def test_schedules_and_options_survive_the_way_through_the_contract(values: dict[str, Any]) -> None:
    made = recipe(**values)

    assert to_recipe(from_recipe(made)) == made


def test_the_contract_names_the_field_of_a_schedule_that_does_not_fit() -> None:
    message = pb.TrainingRecipe(base_model="pypi:x", data=[pb.DataSource(dataset_version="d")])
    message.last_layers.layers = 0
    message.update_schedule.half_fine_tuning.SetInParent()
    with pytest.raises(Invalid) as refused:
        to_recipe(message)
    assert [(one.field, one.reason) for one in refused.value.fields] == [
        ("training_job.recipe.update_schedule", "RECIPE_INVALID")
    ]
