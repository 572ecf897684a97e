"""What a recipe does not say is settled when it is made, and stays as it was settled."""

from __future__ import annotations

from typing import get_args

import pytest

from feinschliff.formats.adaptations import LEARNING_RATES, Adaptation, Lora
from feinschliff.formats.optimisation import Optimisation
from feinschliff.formats.recipe import DataSource, Recipe

VERSION = "projects/default/datasets/routing/versions/1"


def recipe(**values: object) -> Recipe:
    return Recipe.model_validate({"data": [{"dataset_version": VERSION}], **values})


@pytest.mark.parametrize("optimisation", [{}, {"optimisation": {}}, {"optimisation": {"epochs": 1}}])
@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        *[("lora", 2e-4), ("qlora", 2e-4), ("bottleneck", 2e-4), ("full", 2e-5), ("last_layers", 5e-5), ("ia3", 3e-3)],
        *[("prompt", 3e-2), ("p_tuning", 1e-3), ("prefix", 1e-2)],
    ],
)
def test_a_rate_that_nobody_set_follows_from_the_adaptation(
    optimisation: dict[str, object], kind: str, rate: float
) -> None:
    assert recipe(adaptation={"kind": kind}, **optimisation).optimisation.learning_rate == rate


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_rate_that_was_set_stays_even_where_it_is_the_default_of_another(kind: str) -> None:
    made = recipe(adaptation={"kind": kind}, optimisation={"learning_rate": 2e-4})

    assert made.optimisation.learning_rate == 2e-4


@pytest.mark.parametrize(("kind", "recomputes"), [("qlora", True), ("lora", False), ("full", False)])
def test_only_what_is_for_little_memory_computes_activations_twice_unasked(kind: str, recomputes: bool) -> None:
    assert recipe(adaptation={"kind": kind}).optimisation.gradient_checkpointing is recomputes
    for asked in (True, False):
        made = recipe(adaptation={"kind": kind}, optimisation={"gradient_checkpointing": asked})
        assert made.optimisation.gradient_checkpointing is asked


def test_a_stored_recipe_says_its_rate() -> None:
    made = recipe(adaptation={"kind": "full"})

    again = Recipe.model_validate_json(made.model_dump_json())
    assert again == made
    assert "learning_rate" in again.optimisation.model_fields_set


def test_a_recipe_made_in_code_is_settled_as_well() -> None:
    made = Recipe(data=[DataSource(dataset_version=VERSION)], adaptation=Lora(), optimisation=Optimisation(epochs=1))

    assert made.optimisation == Optimisation(epochs=1, learning_rate=2e-4)


def test_the_rule_names_only_adaptations_that_there_are() -> None:
    union = get_args(Adaptation)[0]

    assert LEARNING_RATES.keys() <= {one.model_fields["kind"].default for one in get_args(union)}
