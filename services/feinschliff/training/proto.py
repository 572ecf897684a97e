"""Between the contract and our own words: recipes field by field, jobs, events and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import TypeAdapter, ValidationError

from feinschliff.formats.adaptations import Adaptation
from feinschliff.formats.recipe import SERVED, Recipe
from feinschliff.formats.report import Failure
from feinschliff.kit.errors import FieldViolation, Invalid, Unserved
from feinschliff.training.auto import expanded
from feinschliff.training.capabilities import Rule
from feinschliff.training.consumption import used_by
from feinschliff.training.life import UNDER_WAY, State
from feinschliff.training.store import Checkpoint, Event, Job
from feinschliff.v1 import common_pb2
from feinschliff.v1 import training_pb2 as pb

TOLD = {"machine_seconds", "energy_joules", "carbon_grams", "price", "currency"}  # of what a job has used
RECIPE_PATH = "training_job.recipe"
KINDS = ("objective", "adaptation")
_ADAPTATION: TypeAdapter[Adaptation] = TypeAdapter(Adaptation)
KNOWN_VALUES = frozenset(
    {"step", "steps_total", "epoch", "loss", "validation_loss", "best_validation_loss", "learning_rate"}
    | {"tokens_per_second", "gradient_norm", "trained_tokens"}
)


def to_recipe(message: pb.TrainingRecipe) -> Recipe:
    """The recipe in our words.

    Raises:
        Invalid: RECIPE_INVALID, each wrong field by its path.
        Unserved: TECHNIQUE_UNSERVED, RECIPE_FIELD_UNSERVED for what the contract has and this version does not.
    """
    _refuse_unserved(message)
    values = _plain(message)
    for tracker in values.get("trackers", ()):
        tracker.get("wandb", {}).pop("run_id", None)  # the server's to say
    if "auto" in values:
        values["auto"] = expanded(values["auto"], values, adaptation=_chosen(message, "adaptation") or "lora")
    for group in KINDS:
        chosen = _chosen(message, group)
        if chosen is not None:
            values[group] = {"kind": chosen, **values.pop(chosen, {})}
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _refused(error) from None


def to_adaptation(message: pb.TrainingRecipe) -> Adaptation | None:
    """The adaptation of a stored recipe; None where it names none."""
    chosen = _chosen(message, "adaptation")
    if chosen is None:
        return None
    return _ADAPTATION.validate_python({"kind": chosen, **_plain(getattr(message, chosen))})


def from_recipe(recipe: Recipe) -> pb.TrainingRecipe:
    """The recipe with every default filled in."""
    message = pb.TrainingRecipe()
    values = recipe.model_dump()
    for group in KINDS:
        body = values.pop(group)
        values[body.pop("kind")] = body
    if recipe.from_model_version:
        values.pop("base_model")
    else:
        values.pop("from_model_version")
    _fill(message, values)
    return message


def to_job(job: Job, asked: pb.TrainingRecipe | None = None) -> pb.TrainingJob:
    resolved = from_recipe(job.recipe)
    message = pb.TrainingJob(
        name=job.name,
        state=to_state(job.state),
        recipe=asked or resolved,
        resolved_recipe=resolved,
        model_version=job.model_version,
        task_model_versions=job.task_versions,
        attempt_count=job.attempt,
        metrics=_metrics(job.metrics),
        labels=job.labels,
        annotations=job.annotations,
        create_time=stamp(job.created),
        start_time=stamp(job.started),
        finish_time=stamp(job.finished),
        update_time=stamp(job.updated),
        etag=str(job.version),
        tensorboard_uri=str(job.inputs.get("tensorboard_uri", "")),
    )
    for tracker in message.resolved_recipe.trackers:
        if tracker.HasField("wandb"):
            tracker.wandb.run_id = job.uid
    if job.consumption:
        used = used_by(job)
        message.consumption.CopyFrom(pb.Consumption(**used.model_dump(include=TOLD), energy_source=used.energy_source))
    if job.best_step:
        message.best_checkpoint = f"{job.name}/checkpoints/{job.best_step}"
    if job.failure is not None:
        message.failure.CopyFrom(to_failure(job.failure))
    if job.progress:
        message.progress.CopyFrom(_progress(job.progress))
        if job.progress.get("stage") and job.state in UNDER_WAY:
            message.stage = pb.TrainingJob.Stage.Value(f"STAGE_{str(job.progress['stage']).upper()}")
    return message


def to_state(state: State) -> pb.TrainingJob.State.ValueType:
    return pb.TrainingJob.State.Value(f"STATE_{state.name}")


def from_state_name(text: str) -> str:
    """`RUNNING` or `STATE_RUNNING` as it is stored; KeyError for any other word."""
    return State[text.removeprefix("STATE_")].value


def to_failure(failure: Failure) -> common_pb2.Failure:
    return common_pb2.Failure(
        reason=failure.reason, message=failure.message, advice=failure.advice, retryable=failure.retryable
    )


def from_failure(message: common_pb2.Failure) -> Failure:
    return Failure(
        reason=message.reason or "ATTEMPT_FAILED",
        message=message.message,
        advice=list(message.advice),
        retryable=message.retryable,
    )


def to_event(job: str, event: Event) -> pb.TrainingEvent:
    message = pb.TrainingEvent(
        cursor=event.cursor,
        time=stamp(event.time),
        key=event.key,
        level=pb.TrainingEvent.Level.Value(f"LEVEL_{event.level.upper()}"),
        message=event.message,
    )
    detail = event.detail
    match detail.get("kind"):
        case "state":
            if detail["previous"]:
                message.state_change.previous = to_state(State(detail["previous"]))
            message.state_change.current = to_state(State(detail["current"]))
            if detail.get("failure"):
                message.state_change.failure.CopyFrom(to_failure(Failure.model_validate(detail["failure"])))
        case "metrics":
            message.metrics.CopyFrom(to_point(event))
        case "checkpoint":
            message.checkpoint.CopyFrom(_checkpoint(f"{job}/checkpoints/{detail['step']}", detail))
        case "attempt":
            message.attempt.attempt = detail["attempt"]
            message.attempt.started = detail["started"]
            message.attempt.from_step = detail["from_step"]
            message.attempt.signal = detail.get("signal") or 0
            if detail.get("exit_code") is not None:
                message.attempt.exit_code = detail["exit_code"]
    return message


def to_point(event: Event) -> pb.MetricPoint:
    detail = event.detail
    point = pb.MetricPoint(
        step=detail["step"],
        steps_total=detail["steps_total"],
        epoch=detail["epoch"],
        phase=pb.MetricPoint.Phase.Value(f"PHASE_{detail['phase'].upper()}"),
        values=detail["values"],
        trained_tokens=detail["trained_tokens"],
        time=stamp(event.time),
    )
    if detail.get("eta_seconds") is not None:
        point.eta_seconds = detail["eta_seconds"]
    return point


def to_checkpoint(checkpoint: Checkpoint, *, last: bool) -> pb.Checkpoint:
    detail = {
        "step": checkpoint.step,
        "digest": checkpoint.digest,
        "values": checkpoint.metrics,
        "best": checkpoint.best,
        "uri": checkpoint.uri,
    }
    message = _checkpoint(f"{checkpoint.job}/checkpoints/{checkpoint.step}", detail)
    message.last = last
    message.create_time.CopyFrom(stamp(checkpoint.created) or Timestamp())
    return message


def to_rule(rule: Rule) -> pb.ParameterRule:
    values = {key: value for key, value in asdict(rule).items() if value is not None and key != "default"}
    message = pb.ParameterRule(**values)
    if rule.default is not None:
        message.default_value.number_value = rule.default
    return message


def stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    result = Timestamp()
    result.FromDatetime(moment)
    return result


def moment(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)


def enum_word(kind: EnumDescriptor, number: int) -> str:
    """`PHASE_TRAIN` of `Phase` as `train`; the unspecified value, and one that we do not know, as the empty word."""
    value = kind.values_by_number.get(number)
    return "" if value is None or number == 0 else value.name[len(_prefix(kind)) :].lower()


def _chosen(message: Message, group: str) -> str | None:
    chosen: str | None = message.WhichOneof(group)
    return chosen


def _refuse_unserved(message: pb.TrainingRecipe) -> None:
    objective = _chosen(message, "objective") or "sft"
    adaptation = _chosen(message, "adaptation") or "lora"
    group, chosen, served = "objective", objective, tuple(SERVED)
    if objective in SERVED:
        group, chosen, served = "adaptation", adaptation, SERVED[objective]
    if chosen not in served:
        raise Unserved(
            "TECHNIQUE_UNSERVED",
            f"{group} `{chosen}` is declared but not served by this version; served are {', '.join(served)}.",
            fields=[FieldViolation(f"{RECIPE_PATH}.{chosen}", "not served", "TECHNIQUE_UNSERVED")],
            technique=chosen,
        )


def _plain(message: Message) -> dict[str, Any]:
    """Every field that is set, under its own name; enums as words, maps and lists as they are."""
    values: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        if descriptor.type == FieldDescriptor.TYPE_MESSAGE:
            values[descriptor.name] = [_plain(item) for item in value] if descriptor.is_repeated else _plain(value)
        elif descriptor.enum_type is not None:
            values[descriptor.name] = enum_word(descriptor.enum_type, value)
        else:
            values[descriptor.name] = list(value) if descriptor.is_repeated else value
    return values


def _fill(message: Message, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is None:
            continue
        descriptor = message.DESCRIPTOR.fields_by_name[name]
        if isinstance(value, Mapping):
            getattr(message, name).SetInParent()
            _fill(getattr(message, name), value)
        elif descriptor.is_repeated and descriptor.type == FieldDescriptor.TYPE_MESSAGE:
            for item in value:
                _fill(getattr(message, name).add(), item)
        elif descriptor.is_repeated:
            getattr(message, name).extend(value)
        elif descriptor.enum_type is not None:
            words = f"{_prefix(descriptor.enum_type)}{str(value).upper()}"
            setattr(message, name, descriptor.enum_type.values_by_name[words].number)
        else:
            setattr(message, name, value)


def _prefix(kind: Any) -> str:
    first: str = kind.values[0].name
    return first.removesuffix("UNSPECIFIED")


def _refused(error: ValidationError) -> Invalid | Unserved:
    problems = [
        FieldViolation(
            _path(problem["loc"]),
            f"{problem['msg']}; got {str(problem['input'])[:80]}",
            "RECIPE_FIELD_UNSERVED" if problem["type"] == "extra_forbidden" else "RECIPE_INVALID",
        )
        for problem in error.errors()
    ]
    unserved = [problem for problem in problems if problem.reason == "RECIPE_FIELD_UNSERVED"]
    if unserved and len(unserved) == len(problems):
        names = ", ".join(problem.field for problem in unserved)
        return Unserved(
            "RECIPE_FIELD_UNSERVED", f"This version does not serve {names}; leave it unset.", fields=unserved
        )
    text = "; ".join(f"{problem.field}: {problem.description}" for problem in problems)
    return Invalid("RECIPE_INVALID", f"The recipe cannot be run: {text}", fields=problems)


def _path(location: Sequence[str | int]) -> str:
    """The contract's path of a field: those of an objective or an adaptation lie under its own name."""
    below = location[1:] if location[0] in KINDS and len(location) > 1 else location
    return ".".join([RECIPE_PATH, *(str(part) for part in below)])


def _metrics(values: Mapping[str, float]) -> pb.JobMetrics:
    message = pb.JobMetrics(
        step=int(values.get("step", 0)),
        steps_total=int(values.get("steps_total", 0)),
        epoch=values.get("epoch", 0.0),
        trained_tokens=int(values.get("trained_tokens", 0)),
        others={key: value for key, value in values.items() if key not in KNOWN_VALUES},
    )
    for key in (
        "loss",
        "validation_loss",
        "best_validation_loss",
        "learning_rate",
        "tokens_per_second",
        "gradient_norm",
    ):
        if key in values:
            setattr(message, key, values[key])
    return message


def _progress(progress: Mapping[str, Any]) -> common_pb2.Progress:
    done, total = int(progress.get("done", 0)), int(progress.get("total", 0))
    message = common_pb2.Progress(
        done=done, total=total, unit=str(progress.get("unit", "")), fraction=done / total if total else 0.0
    )
    if progress.get("eta"):
        message.eta.CopyFrom(stamp(datetime.fromisoformat(str(progress["eta"]))) or Timestamp())
    return message


def _checkpoint(name: str, detail: Mapping[str, Any]) -> pb.Checkpoint:
    return pb.Checkpoint(
        name=name,
        step=detail["step"],
        digest=detail["digest"],
        metrics=detail["values"],
        best=detail["best"],
        artifact=common_pb2.ArtifactRef(uri=detail["uri"], sha256=str(detail["digest"]).removeprefix("sha256:")),
    )
