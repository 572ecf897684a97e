"""What a finished job left: the results that become model versions, and the models that they are added to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from feinschliff.artifacts.commit import read_manifest
from feinschliff.artifacts.store import Store
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.recipe import Recipe
from feinschliff.formats.report import TaskResults
from feinschliff.kit import names
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.training.store import Job

PATH = "training_job.recipe"


class Outcome(NamedTuple):
    """A committed result; `task` is whose it is, and empty where all learned together."""

    task: str
    prefix: str
    manifest: Manifest


def outcomes(artifacts: Store, job: Job) -> Iterator[Outcome]:
    """The job's result, or one for each task that has an adapter of its own."""
    prefix = f"{job.name}/result"
    whole = _committed(artifacts, prefix)
    if not job.recipe.has_separate_adapters:
        yield Outcome("", prefix, whole)
        return
    for task, below in TaskResults.model_validate(whole.meta).tasks.items():
        yield Outcome(task, below, _committed(artifacts, below))


def model_of(recipe: Recipe, job: str, task: str = "") -> str:
    """The id of the model that a result is added to."""
    return "-".join([recipe.output_model or job.rpartition("/")[2], *([task] if task else [])])


def refuse_long_models(recipe: Recipe, job: str) -> None:
    """
    Raises:
        Invalid: TASK_ADAPTERS_UNSUITED where a task's model cannot be called as it would be.
    """
    if not recipe.has_separate_adapters:
        return
    models = {task: model_of(recipe, job, task) for task in recipe.tasks}
    wrong = {task: model for task, model in models.items() if not names.matches("{model}", model)}
    if not wrong:
        return
    reason, first = "TASK_ADAPTERS_UNSUITED", next(iter(wrong.values()))
    numbers = [number for number, source in enumerate(recipe.data) if source.task_name in wrong]
    message = f"A model cannot be called {first!r}, which is `output_model` and the task: an id is {names.ID_WORDS}."
    raise Invalid(
        reason,
        message,
        fields=[FieldViolation(f"{PATH}.data[{number}].task", message, reason) for number in numbers],
        advice=["Give these tasks shorter names with `data.task`, or set a shorter `output_model`."],
        model=first,
    )


def _committed(artifacts: Store, prefix: str) -> Manifest:
    manifest = read_manifest(artifacts, prefix)
    if manifest is None:
        raise AssertionError(f"{prefix}: finished without a result")
    return manifest
