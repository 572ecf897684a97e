"""The lanes of an attempt: which rows learn together, and the weights that each lane begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from torch import nn

from feinschliff.formats.report import Notice
from feinschliff.kit.spans import span
from feinschliff.trainer import lanes, optim
from feinschliff.trainer.checkpoint import Saved
from feinschliff.trainer.lanes import Lane
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.moving import Moving, moving_of
from feinschliff.trainer.order import Course
from feinschliff.trainer.preparation import Attempt, Loaded
from feinschliff.trainer.reading import sources_by_lane
from feinschliff.trainer.rounding import start_from_rounding, starts_from_rounding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import PeftModel


def lanes_of(
    a: Attempt, loaded: Loaded, learner: Learner, parameters: dict[str, nn.Parameter], saved: Saved | None
) -> list[Lane]:
    """One for all rows, or one for each task that has an adapter of its own: all begin with equal weights, as they
    would in jobs of their own, and go on with what is saved."""
    optimisation, lengths, made = a.recipe.optimisation, loaded.data.rows.lengths(), []
    for task, sources in sources_by_lane(a, loaded.data.sources).items():
        course = Course.of(sources, optimisation, seed=a.recipe.seed, lengths=lengths)
        moving = moving_for(a, learner, parameters, course, task)
        optimiser = optim.build(parameters, optimisation, moving.rate_shares)
        weights = {name: weight.detach().clone() for name, weight in parameters.items()} if task else {}
        made.append(Lane(course, optimiser, moving, validation_rows_of(loaded, task), task, weights))
    if saved is not None and a.recipe.has_separate_adapters:
        lanes.restore(made, parameters, learner, saved.folder)
    if loaded.start is None and starts_from_rounding(a.recipe):
        with span("rounding"):
            for lane in made:
                lane.lend(parameters)
                start_from_rounding(a, loaded, cast("PeftModel", learner.adapted), lane.course.rows, task=lane.task)
    return made


def validation_rows_of(loaded: Loaded, task: str) -> Sequence[int]:
    """Numbers of the task's rows to validate with, growing; all rows for the empty name."""
    everything = range(len(loaded.data.validation_rows))
    if not task or not everything:
        return everything
    tasks = loaded.data.validation_tasks
    return [int(row) for row in np.flatnonzero(tasks.of(everything) == tasks.names.index(task))]


def moving_for(a: Attempt, learner: Learner, weights: dict[str, nn.Parameter], course: Course, task: str) -> Moving:
    """What the update schedule lets move; told once among the job's events."""
    moving = moving_of(
        a.recipe.update_schedule, learner.transformer, weights, epoch=course.steps_per_epoch, seed=a.recipe.seed
    )
    if message := moving.description(course.steps_total):
        key, of_task = (f"update_schedule/{task}", f"{task}: ") if task else ("update_schedule", "")
        a.post(Notice(key=key, message=f"{of_task}{message}"))
    return moving
