"""A job that trains a version further keeps the adaptation that made it, and says so."""

from __future__ import annotations

from typing import Any

import pytest

from feinschliff.formats.adaptations import Adaptation, Dora, LastLayers, Lora, LowRank, Qlora
from feinschliff.formats.recipe import Optimisation, Recipe
from feinschliff.kit.errors import WrongState
from feinschliff.training.proto import from_recipe, to_adaptation, to_recipe
from tests.contract.training.conftest import DATASET, Training

VERSION = "projects/default/models/m/versions/1"


def recipe_of(**more: Any) -> Recipe:
    return Recipe.model_validate({"from_model_version": VERSION, "data": [{"dataset_version": DATASET}], **more})


@pytest.mark.parametrize("own", [Lora(rank=4, alpha=9), Dora(lora=LowRank(rank=2)), LastLayers(layers=3), Qlora()])
@pytest.mark.parametrize("names_it", [False, True])
def test_what_is_not_asked_for_is_the_versions(training: Training, own: Adaptation, names_it: bool) -> None:
    training.models.adaptation = own
    asked = recipe_of(optimisation={"epochs": 2}, **({"adaptation": {"kind": own.kind}} if names_it else {}))
    job = training.jobs.create(training.order(recipe=asked))
    assert (job.recipe.adaptation, job.inputs["parent_version"]) == (own, VERSION)
    of_its_own = recipe_of(optimisation={"epochs": 2}, adaptation=own.model_dump())
    assert job.recipe.optimisation == of_its_own.optimisation


def test_everything_else_is_as_it_was_asked_for(training: Training) -> None:
    training.models.adaptation = Dora(lora=LowRank(rank=2))
    wanted = recipe_of(optimisation={"epochs": 2, "learning_rate": 3e-4}, seed=5, suffix="further")
    job = training.jobs.create(training.order(recipe=wanted))
    same = {"optimisation": Optimisation(epochs=2, learning_rate=3e-4), "seed": 5, "suffix": "further"}
    assert {name: getattr(job.recipe, name) for name in same} == same


@pytest.mark.parametrize(
    ("own", "asked", "fields"),
    [
        (Lora(), {"kind": "dora"}, ["from_model_version"]),
        (Lora(rank=8), {"kind": "lora", "rank": 16}, ["lora.rank"]),
        (Lora(rank=8, alpha=16), {"kind": "lora", "rank": 4, "alpha": 8}, ["lora.alpha", "lora.rank"]),
        (Dora(lora=LowRank(rank=8)), {"kind": "dora", "lora": {"rank": 16}}, ["dora.lora.rank"]),
        (LastLayers(layers=2), {"kind": "last_layers", "layers": 4}, ["last_layers.layers"]),
    ],
)
def test_what_the_adapter_cannot_become_is_refused(
    training: Training, own: Adaptation, asked: dict[str, Any], fields: list[str]
) -> None:
    training.models.adaptation = own
    with pytest.raises(WrongState) as refused:
        training.jobs.create(training.order(recipe=recipe_of(adaptation=asked)))
    assert refused.value.reason == "ADAPTATION_DIFFERS"
    assert [one.field for one in refused.value.fields] == [f"training_job.recipe.{field}" for field in fields]


def test_auto_does_not_choose_what_the_version_has(training: Training) -> None:
    training.models.adaptation = Lora(rank=4, alpha=9)
    chosen = ["optimisation.epochs", "lora.rank", "lora.alpha"]
    job = training.jobs.create(training.order(recipe=recipe_of(auto=chosen)))
    assert (job.recipe.adaptation, job.recipe.auto) == (Lora(rank=4, alpha=9), ["optimisation.epochs"])


def test_a_version_of_unknown_making_is_taken_by_its_word(training: Training) -> None:
    training.models.adaptation = None
    asked = recipe_of(adaptation={"kind": "lora", "rank": 2})
    assert training.jobs.create(training.order(recipe=asked)).recipe.adaptation == Lora(rank=2)


def test_a_stored_recipe_tells_the_adaptation_that_made_it() -> None:
    made = recipe_of(adaptation={"kind": "qlora", "quantisation": "int8", "lora": {"target_modules": ["q_proj"]}})
    message = from_recipe(made)
    assert to_adaptation(message) == made.adaptation == to_recipe(message).adaptation
    message.ClearField("qlora")
    assert to_adaptation(message) is None
