"""What `auto` means, and how hyperparameters travel to a recipe and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.gateway.bodies import checked
from feinschliff.gateway.errors import ApiError
from feinschliff.gateway.recipes import Start, param_of, to_hyperparameters, to_recipe
from feinschliff.gateway.tuning import (
    BASE_LEARNING_RATE,
    Hyperparameters,
    JobBody,
    Resolved,
    auto_batch_size,
    auto_epochs,
    resolve,
)

BODY = {"model": "m", "training_file": "file-x"}


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [(1, 25), (4, 25), (10, 10), (20, 5), (33, 3), (34, 3), (100, 3), (8333, 3), (8334, 2), (25_000, 1), (10**7, 1)],
)
def test_auto_epochs_follow_the_published_rule(rows: int, epochs: int) -> None:
    assert auto_epochs(rows) == epochs


@settings(deadline=None)
@given(st.integers(1, 10**9))
def test_auto_is_always_in_range_and_leaves_four_steps_an_epoch(rows: int) -> None:
    assert 1 <= auto_epochs(rows) <= 25
    batch = auto_batch_size(rows)
    assert 1 <= batch <= 8
    assert batch == 1 or rows // batch >= 4


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
