"""A job's events and checkpoints as OpenAI tells them; one of our events may be several of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from feinschliff.gateway import ids
from feinschliff.gateway.jobs import JobView, State, error_of, seconds
from feinschliff.v1 import training_pb2 as pb

Level = pb.TrainingEvent.Level
LEVELS: Mapping[int, str] = {Level.LEVEL_WARNING: "warn", Level.LEVEL_ERROR: "error"}


class Told(NamedTuple):
    """One event in OpenAI's words, before it has an id."""

    message: str
    type: str = "message"
    data: Mapping[str, JsonValue] | None = None


def to_events(event: pb.TrainingEvent, job: JobView) -> list[dict[str, JsonValue]]:
    """The event, oldest part first."""
    return [
        {
            "id": ids.event_id(job.id, event.cursor, part),
            "object": "fine_tuning.job.event",
            "created_at": seconds(event.time),
            "level": LEVELS.get(event.level, "info"),
            "message": told.message,
            "type": told.type,
            "data": dict(told.data) if told.data is not None else None,
        }
        for part, told in enumerate(_told(event, job))
    ]


def to_checkpoint(checkpoint: pb.Checkpoint, job: JobView) -> dict[str, JsonValue]:
    return {
        "id": ids.checkpoint_id(job.id, checkpoint.step),
        "object": "fine_tuning.job.checkpoint",
        "created_at": seconds(checkpoint.create_time),
        "fine_tuned_model_checkpoint": str(job.tuned(step=checkpoint.step)) if job.is_one_model else checkpoint.name,
        "step_number": checkpoint.step,
        "fine_tuning_job_id": job.id,
        "metrics": {"step": checkpoint.step, **_checkpoint_metrics(checkpoint.metrics)},
    }


def metric_values(point: pb.MetricPoint) -> dict[str, JsonValue]:
    """A point's numbers by OpenAI's names; those it does not know keep ours. All validation rows are measured."""
    if point.phase == pb.MetricPoint.PHASE_VALIDATION:
        return {
            theirs: value
            for name, value in point.values.items()
            for theirs in _VALIDATION.get(name, (f"valid_{name}",))
        }
    return {_TRAIN.get(name, name): value for name, value in point.values.items()}


_TRAIN = {"loss": "train_loss", "accuracy": "train_mean_token_accuracy"}
_VALIDATION = {
    "loss": ("valid_loss", "full_valid_loss"),
    "accuracy": ("valid_mean_token_accuracy", "full_valid_mean_token_accuracy"),
}
_CHECKPOINT = {
    "loss": ("train_loss",),
    "train_loss": ("train_loss",),
    "train_accuracy": ("train_mean_token_accuracy",),
    "validation_loss": _VALIDATION["loss"],
    "validation_accuracy": _VALIDATION["accuracy"],
}


def _checkpoint_metrics(metrics: Mapping[str, float]) -> dict[str, JsonValue]:
    return {theirs: value for name, value in metrics.items() for theirs in _CHECKPOINT.get(name, ())}


def _told(event: pb.TrainingEvent, job: JobView) -> Iterator[Told]:
    match event.WhichOneof("detail"):
        case "state_change":
            yield from _moved(event.state_change, job, event.message)
        case "metrics":
            yield _measured(event.metrics)
        case "checkpoint":
            step = event.checkpoint.step
            name = f": {job.tuned(step=step)}" if job.is_one_model else ""
            yield Told(f"Checkpoint created at step {step}{name}", data={"step": step})
        case _:
            yield Told(event.message)


def _moved(change: pb.JobStateChange, job: JobView, message: str) -> Iterator[Told]:
    if change.previous == State.STATE_UNSPECIFIED:
        yield Told(f"Created fine-tuning job: {job.id}")
        yield Told(f"Validating training file: {job.training_file}")
    match change.current:
        case State.STATE_VALIDATING:
            return
        case State.STATE_QUEUED if change.previous in (State.STATE_UNSPECIFIED, State.STATE_VALIDATING):
            yield Told("Files validated, moving job to queued state")
        case State.STATE_RUNNING if change.previous in (State.STATE_UNSPECIFIED, State.STATE_QUEUED):
            yield Told("Fine-tuning job started")
        case State.STATE_SUCCEEDED:
            yield Told(f"New fine-tuned model created: {job.tuned()}" if job.is_one_model else message)
            yield Told("The job has successfully completed")
        case State.STATE_FAILED:
            error = error_of(change.failure)
            data = {"error_code": error["code"], "error_param": error["param"]}
            yield Told(f"Fine-tuning job failed: {error['message']}", data=data)
        case State.STATE_CANCELLED:
            yield Told("Fine-tuning job cancelled")
        case _:
            yield Told(message or f"The job is {State.Name(change.current).removeprefix('STATE_').lower()}")


def _measured(point: pb.MetricPoint) -> Told:
    where = f"Step {point.step}/{point.steps_total}" if point.steps_total else f"Step {point.step}"
    what = "validation" if point.phase == pb.MetricPoint.PHASE_VALIDATION else "training"
    loss = f"{what} loss={point.values['loss']:.4f}" if "loss" in point.values else f"{what} measured"
    data = {"step": point.step, "total_steps": point.steps_total, **metric_values(point)}
    return Told(f"{where}: {loss}", "metrics", data)
