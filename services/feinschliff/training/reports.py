"""A trainer's reports, from the wire into our own words."""

from __future__ import annotations

from pydantic import ValidationError

from feinschliff.formats.report import CheckpointReport, Metrics, Notice, Progress, Report
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.training.consumption import Energy
from feinschliff.training.proto import enum_word, moment
from feinschliff.v1 import training_pb2 as pb

KEY_CHARS_MAX = 200


def to_report(message: pb.ReportRequest) -> Report | None:
    """The report; None for a bare sign of life.

    Raises:
        Invalid: REPORT_INVALID.
    """
    try:
        return _translated(message)
    except ValidationError as error:
        first = error.errors()[0]
        raise _invalid(".".join(str(part) for part in first["loc"]), first["msg"]) from None


def energy_of(heartbeat: pb.Heartbeat) -> Energy | None:
    """What the attempt says that it has used; None where it does not know."""
    return Energy(heartbeat.energy_joules, heartbeat.energy_source) if heartbeat.energy_source else None


def _translated(message: pb.ReportRequest) -> Report | None:
    kind = message.WhichOneof("report")
    if kind is None:
        raise _invalid("report", "one of progress, metrics, event, checkpoint, heartbeat must be set")
    if kind == "heartbeat":
        return None
    if kind == "progress":
        return _progress(message)
    if not message.key or len(message.key) > KEY_CHARS_MAX:
        raise _invalid("key", f"must have 1 to {KEY_CHARS_MAX} characters")
    if kind == "metrics":
        return _metrics(message.key, message.metrics)
    if kind == "checkpoint":
        return _checkpoint(message.key, message.checkpoint)
    level = enum_word(pb.TrainingEvent.Level.DESCRIPTOR, message.event.level) or "info"
    return Notice.model_validate({"key": message.key, "level": level, "message": message.event.message})


def _progress(message: pb.ReportRequest) -> Progress:
    progress = message.progress
    stage = enum_word(pb.TrainingJob.Stage.DESCRIPTOR, message.stage) or "training"
    eta = None
    if progress.HasField("eta"):
        eta = max(0.0, (moment(progress.eta) - SystemClock().now()).total_seconds())
    return Progress.model_validate(
        {"stage": stage, "step": progress.done, "steps_total": progress.total, "eta_seconds": eta}
    )


def _metrics(key: str, point: pb.MetricPoint) -> Metrics:
    phase = enum_word(pb.MetricPoint.Phase.DESCRIPTOR, point.phase)
    if not phase:
        raise _invalid("metrics.phase", "must be set")
    return Metrics.model_validate(
        {
            "key": key,
            "phase": phase,
            "step": point.step,
            "steps_total": point.steps_total,
            "epoch": point.epoch,
            "trained_tokens": point.trained_tokens,
            "eta_seconds": point.eta_seconds if point.HasField("eta_seconds") else None,
            "values": dict(point.values),
        }
    )


def _checkpoint(key: str, checkpoint: pb.Checkpoint) -> CheckpointReport:
    return CheckpointReport(
        key=key,
        step=checkpoint.step,
        prefix=checkpoint.artifact.uri,
        digest=checkpoint.digest,
        values=dict(checkpoint.metrics),
        best=checkpoint.best,
    )


def _invalid(field: str, why: str) -> Invalid:
    return Invalid("REPORT_INVALID", f"{field}: {why}.", fields=[FieldViolation(field, why, "REPORT_INVALID")])
