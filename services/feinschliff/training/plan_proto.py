"""A plan in the contract's words."""

from __future__ import annotations

from feinschliff.training.findings import Finding
from feinschliff.training.plan import Duration, JobPlan
from feinschliff.training.proto import from_recipe
from feinschliff.v1 import common_pb2
from feinschliff.v1 import training_pb2 as pb


def to_plan(plan: JobPlan) -> pb.TrainingPlan:
    message = pb.TrainingPlan(
        resolved_recipe=from_recipe(plan.recipe),
        train_rows=plan.work.rows_per_epoch,
        validation_rows=plan.validation_rows,
        steps=plan.work.steps,
        train_tokens=plan.work.tokens,
        label_tokens=plan.work.labels,
        trainable_parameters=plan.trained,
        total_parameters=plan.architecture.total_parameters if plan.architecture else 0,
        memory_bytes=plan.memory.expected,
        memory_bytes_low=plan.memory.low,
        memory_bytes_high=plan.memory.high,
        memory_bytes_limit=plan.memory.limit,
        memory_parts=[
            pb.MemoryPart(
                component=part.component, bytes_low=part.low, bytes_expected=part.expected, bytes_high=part.high
            )
            for part in plan.memory.parts
        ],
        fits=plan.memory.fits,
        long_rows=plan.count(lambda source: source.long),
        unanswered_rows=plan.count(lambda source: source.unanswered),
        row_tokens_max=plan.row_tokens_max,
        sampled=any(source.sampled for source in plan.sources),
        findings=[to_finding(finding) for finding in plan.findings],
        currency=plan.currency,
    )
    if plan.duration is not None:
        _fill_duration(message, plan.duration)
    return message


def to_finding(finding: Finding) -> common_pb2.Finding:
    return common_pb2.Finding(
        severity=common_pb2.Severity.Value(f"SEVERITY_{finding.severity.name}"),
        code=finding.code,
        message=finding.message,
        count=finding.count,
        rows=finding.rows,
        advice=finding.advice,
        field=finding.field,
    )


def _fill_duration(message: pb.TrainingPlan, duration: Duration) -> None:
    message.seconds = duration.seconds
    message.seconds_low = duration.low
    message.seconds_high = duration.high
    message.tokens_per_second = duration.speed.expected
    message.speed_samples = duration.speed.samples
    if duration.price is not None:
        message.price = duration.price
