"""A job as a person reads it."""

from __future__ import annotations

from rich.console import Console

from feinschliff.cli.train import described
from feinschliff.v1 import training_pb2 as pb


def test_the_model_of_every_task_is_named() -> None:
    versions = {task: f"projects/default/models/desk-{task}/versions/1" for task in ("refunds", "tickets")}
    job = pb.TrainingJob(name="projects/default/trainingJobs/ftjob-1", task_model_versions=versions)
    console = Console(width=120)
    with console.capture() as said:
        console.print(described(job))
    lines = [line.split() for line in said.get().splitlines()]
    assert ["model", "of", "refunds", "desk-refunds/1"] in lines
    assert ["model", "of", "tickets", "desk-tickets/1"] in lines
