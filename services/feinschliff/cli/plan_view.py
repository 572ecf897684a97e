"""A plan as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from feinschliff.cli.errors import REFUSED
from feinschliff.cli.output import facts, seconds, table
from feinschliff.cli.services import refusals
from feinschliff.cli.session import Session
from feinschliff.cli.words import findings
from feinschliff.v1 import common_pb2
from feinschliff.v1 import training_pb2 as pb

GIB = 1024**3


def show_plan(session: Session, recipe: pb.TrainingRecipe) -> None:
    """Asks for the plan and shows it.

    Raises:
        typer.Exit: with 1, where the job would be refused or would fail.
    """
    request = pb.PlanTrainingJobRequest(parent=session.names.parent, training_job=pb.TrainingJob(recipe=recipe))
    with refusals():
        plan = session.services.training.PlanTrainingJob(request)
    session.output.show(plan, lambda: described(plan))
    if not plan.fits or any(one.severity == common_pb2.SEVERITY_ERROR for one in plan.findings):
        raise typer.Exit(REFUSED)


def described(plan: pb.TrainingPlan) -> Group:
    return Group(*_described(plan))


def _described(plan: pb.TrainingPlan) -> Iterator[RenderableType]:
    about = " (by a sample)" if plan.sampled else ""
    yield facts(
        {
            "rows": f"{plan.train_rows:,} an epoch, {plan.validation_rows:,} to validate{about}",
            "steps": f"{plan.steps:,}",
            "tokens": f"{plan.train_tokens:,}, of them learned {plan.label_tokens:,}{about}",
            "longest row": f"{plan.row_tokens_max:,} tokens" if plan.row_tokens_max else "",
            "weights": f"{plan.trainable_parameters:,} of {plan.total_parameters:,} learn"
            if plan.total_parameters
            else "",
            "memory": _memory(plan),
            "time": _time(plan),
            "price": f"{plan.price:.2f} {plan.currency}" if plan.HasField("price") else "",
        }
    )
    if plan.memory_parts:
        yield Text()
        rows = (
            (part.component, *(gibibytes(size) for size in (part.bytes_low, part.bytes_expected, part.bytes_high)))
            for part in plan.memory_parts
            if part.bytes_high
        )
        yield table(("MEMORY OF A PROCESS", "#LOW", "#EXPECTED", "#HIGH"), rows)
    if plan.findings:
        yield Text()
        yield from findings(plan.findings)


def _memory(plan: pb.TrainingPlan) -> str:
    if not plan.memory_bytes:
        return "not known"
    limit = f"; there are {gibibytes(plan.memory_bytes_limit)}" if plan.memory_bytes_limit else ""
    fits = "" if plan.fits else ": does not fit"
    low, high = gibibytes(plan.memory_bytes_low), gibibytes(plan.memory_bytes_high)
    return f"about {gibibytes(plan.memory_bytes)}, {low} to {high}{limit}{fits}"


def _time(plan: pb.TrainingPlan) -> str:
    if not plan.HasField("seconds"):
        return "not known: no such job has run here yet"
    jobs = f"{plan.speed_samples} earlier job{'s' if plan.speed_samples > 1 else ''}"
    return (
        f"about {seconds(plan.seconds)}, {seconds(plan.seconds_low)} to {seconds(plan.seconds_high)} "
        f"(at {plan.tokens_per_second:.0f} tokens/s of {jobs})"
    )


def gibibytes(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
