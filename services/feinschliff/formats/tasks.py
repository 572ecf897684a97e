"""Jobs with an adapter for each task: which recipes can have them, and where their results lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from feinschliff.formats.adaptations import OF_BASE
from feinschliff.formats.objectives import HEADED
from feinschliff.formats.recipe import Recipe
from feinschliff.kit.errors import FieldViolation, Invalid

PATH = "training_job.recipe"
REASON = "TASK_ADAPTERS_UNSUITED"


class Wrong(NamedTuple):
    """A field of the recipe that does not go with separate adapters."""

    field: str
    why: str
    advice: str


def refuse_unsuited(recipe: Recipe) -> None:
    """
    Raises:
        Invalid: TASK_ADAPTERS_UNSUITED, each field that is wrong.
    """
    wrongs = list(_wrongs(recipe)) if recipe.has_separate_adapters else []
    if not wrongs:
        return
    message = f"This recipe cannot give every task an adapter of its own: {'; '.join(one.why for one in wrongs)}."
    raise Invalid(
        REASON,
        message,
        fields=[FieldViolation(f"{PATH}.{one.field}", one.why, REASON) for one in wrongs],
        advice=[*(one.advice for one in wrongs), "Or leave `task_adapters` SHARED."],
        task_adapters=recipe.task_adapters,
    )


def separable(objective: str, adaptation: str) -> bool:
    """Whether several results of the pair can lie beside one base. Args: the `kind` of each."""
    return objective not in HEADED and adaptation not in OF_BASE


def result_prefix_of(job_prefix: str, task: str) -> str:
    """Where the result of a task lies that has an adapter of its own; that of the job is at `{job}/result`."""
    return f"{job_prefix}/result/tasks/{task}"


def _wrongs(recipe: Recipe) -> Iterator[Wrong]:
    objective, adaptation = recipe.objective.kind, recipe.adaptation.kind
    if len(recipe.tasks) < 2:
        only = f"there is one task, `{recipe.tasks[0]}`"
        yield Wrong("data", only, "Name data of another task, or tell tasks apart with `data.task`.")
    if adaptation in OF_BASE:
        why = f"`{adaptation}` trains weights of the base itself, of which there is one"
        yield Wrong(adaptation, why, "Take an adaptation that lies beside the base, such as `lora`.")
    if objective in HEADED:
        why = f"`{objective}` has one head, with the classes or the unit of all rows"
        yield Wrong(objective, why, "Start a job for each task, or take an objective without a head, such as `sft`.")
    if recipe.sharing == "sharded":
        yield Wrong("sharing", "adapters are not cut among processes", "Leave `sharing` REPLICATED.")
