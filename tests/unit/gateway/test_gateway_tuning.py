"""What `auto` means, and how hyperparameters travel to a recipe and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.formats.auto import batch_size_for, epochs_for
from feinschliff.gateway.bodies import checked
from feinschliff.gateway.errors import ApiError
from feinschliff.gateway.recipes import Start, param_of, to_hyperparameters, to_recipe
from feinschliff.gateway.tuning import (
    BASE_LEARNING_RATE,
    Hyperparameters,
    JobBody,
    Resolved,
    resolve,
)

BODY = {"model": "m", "training_file": "file-x"}


@settings(deadline=None)
@given(st.integers(1, 10**9))
def test_auto_is_what_the_one_rule_of_all_doors_says(rows: int) -> None:
    assert resolve(Hyperparameters(), rows=rows) == Resolved(epochs_for(rows), batch_size_for(rows), 1.0)


def test_a_number_is_taken_as_it_is() -> None:
    asked = Hyperparameters(n_epochs=7, batch_size=3, learning_rate_multiplier=0.5)
    assert resolve(asked, rows=1000) == Resolved(7, 3, 0.5)


@settings(deadline=None)
@given(st.floats(0.001, 1000), st.integers(1, 50), st.integers(1, 256))
def test_hyperparameters_come_back_as_they_went(multiplier: float, epochs: int, batch: int) -> None:
    multiplier = float(f"{multiplier:.6g}")
    body = checked(JobBody, BODY)
    hyper = Resolved(epochs, batch, multiplier)
    recipe = to_recipe(body, Start(base_uri="pypi:x"), hyper, training="t", validation="", seed=1)
    assert to_hyperparameters(recipe) == {
        "n_epochs": epochs,
        "batch_size": batch,
        "learning_rate_multiplier": multiplier,
    }


def test_the_multiplier_scales_the_recipes_own_default() -> None:
    assert pytest.approx(2e-4) == BASE_LEARNING_RATE
    assert Resolved(1, 1, 2.0).learning_rate == pytest.approx(4e-4)


def test_the_newer_place_wins_where_both_say_something() -> None:
    newer = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}}
    body = checked(JobBody, BODY | {"method": newer, "hyperparameters": {"n_epochs": 9, "batch_size": 4}})
    assert body.asked == Hyperparameters(n_epochs=2, batch_size=4)


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("training_job.recipe.optimisation.epochs", "hyperparameters.n_epochs"),
        ("training_job.recipe.data[0].dataset_version", "training_file"),
        ("training_job.recipe.data[0].validation_dataset_version", "validation_file"),
        ("training_job.recipe.base_model", "model"),
        ("training_job.recipe.seed", "seed"),
        ("training_job.labels", "metadata"),
        ("training_job.recipe.lora.rank", None),
    ],
)
def test_paths_of_the_service_become_the_callers(path: str, param: str | None) -> None:
    assert param_of(checked(JobBody, BODY))(path) == param


def test_a_rate_that_no_recipe_takes_is_refused_before_it_is_asked_for() -> None:
    with pytest.raises(ApiError) as caught:
        checked(JobBody, BODY | {"hyperparameters": {"learning_rate_multiplier": 1e9}})
    assert (caught.value.code, caught.value.param) == (
        "decimal_above_max_value",
        "hyperparameters.learning_rate_multiplier",
    )
