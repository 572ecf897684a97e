"""One name stands for what a job makes, but not where every task has an adapter of its own."""

from __future__ import annotations

import pytest

from feinschliff.gateway.events import to_events
from feinschliff.gateway.ids import Bases
from feinschliff.gateway.jobs import JobView
from feinschliff.v1 import training_pb2 as pb

SAID = "The job is succeeded. New models created: desk-a, desk-b."
SEPARATE = pb.TrainingRecipe.TASK_ADAPTERS_SEPARATE
NAME = "ft:m:default::1"


@pytest.mark.parametrize(
    ("task_adapters", "tuned", "told"),
    [
        (pb.TrainingRecipe.TASK_ADAPTERS_SHARED, NAME, f"New fine-tuned model created: {NAME}"),
        (SEPARATE, None, SAID),
    ],
)
def test_a_job_has_a_tuned_model_where_its_tasks_share_one(
    task_adapters: pb.TrainingRecipe.TaskAdapters.ValueType, tuned: str | None, told: str
) -> None:
    recipe = pb.TrainingRecipe(base_model="pypi:m", task_adapters=task_adapters)
    succeeded = pb.TrainingJob.STATE_SUCCEEDED
    job = pb.TrainingJob(name="projects/default/trainingJobs/ftjob-1", state=succeeded, resolved_recipe=recipe)
    view = JobView(job, Bases({"m": "pypi:m"}))
    assert view.to_json()["fine_tuned_model"] == tuned
    change = pb.JobStateChange(previous=pb.TrainingJob.STATE_RUNNING, current=succeeded)
    events = to_events(pb.TrainingEvent(message=SAID, state_change=change), view)
    assert told in [event["message"] for event in events]
