"""A training job as OpenAI shows it: everything is derived from the job itself."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import JsonValue

from feinschliff.gateway import ids
from feinschliff.gateway.errors import BY_REASON
from feinschliff.gateway.recipes import to_hyperparameters
from feinschliff.kit import names
from feinschliff.v1 import common_pb2
from feinschliff.v1 import training_pb2 as pb

State = pb.TrainingJob.State
MODEL_ANNOTATION = "openai-model"
"""The model as the request named it; without it, the base's own name is shown."""
UNKNOWN_BASE = "base"
"""Stands in the name of a model that continues one which was not made through this door."""

STATUS: Mapping[int, str] = {
    State.STATE_VALIDATING: "validating_files",
    State.STATE_QUEUED: "queued",
    State.STATE_RUNNING: "running",
    State.STATE_PAUSING: "running",
    State.STATE_PAUSED: "paused",
    State.STATE_CANCELLING: "running",
    State.STATE_SUCCEEDED: "succeeded",
    State.STATE_FAILED: "failed",
    State.STATE_CANCELLED: "cancelled",
}
FINAL = frozenset({State.STATE_SUCCEEDED, State.STATE_FAILED, State.STATE_CANCELLED})


class JobView:
    """One job in OpenAI's words."""

    def __init__(self, job: pb.TrainingJob, bases: ids.Bases) -> None:
        self._job = job
        self._bases = bases
        parts = names.parse(ids.JOB, job.name)
        self.project, self.id = parts["project"], parts["job"]
        self.is_final = job.state in FINAL

    @property
    def recipe(self) -> pb.TrainingRecipe:
        return self._job.resolved_recipe if self._job.HasField("resolved_recipe") else self._job.recipe

    @property
    def training_file(self) -> str:
        return ids.file_of(self.recipe.data[0].dataset_version) if self.recipe.data else ""

    @property
    def validation_file(self) -> str | None:
        name = self.recipe.data[0].validation_dataset_version if self.recipe.data else ""
        return ids.file_of(name) if name else None

    def tuned(self, step: int | None = None) -> ids.TunedName:
        """The name that the job's model has, or will have."""
        suffix = ids.slug(self.recipe.suffix)
        return ids.TunedName(self._base(), self.project, suffix, ids.public_id(self.id), step)

    @property
    def is_one_model(self) -> bool:
        """Whether one name can stand for what the job makes: not where every task has an adapter of its own."""
        return self.recipe.task_adapters != pb.TrainingRecipe.TASK_ADAPTERS_SEPARATE

    @property
    def model(self) -> str:
        """The model that the job starts from, as it was asked for."""
        asked = self._job.annotations.get(MODEL_ANNOTATION, "")
        if asked or not self.recipe.base_model:
            return asked or self.recipe.from_model_version
        return self._bases.short(self.recipe.base_model)

    def to_json(self) -> dict[str, JsonValue]:
        job = self._job
        hyper = to_hyperparameters(self.recipe)
        return {
            "id": self.id,
            "object": "fine_tuning.job",
            "created_at": seconds(job.create_time),
            "finished_at": seconds(job.finish_time) if self.is_final else None,
            "estimated_finish": self._estimated_finish(),
            "model": self.model,
            "fine_tuned_model": str(self.tuned()) if job.state == State.STATE_SUCCEEDED and self.is_one_model else None,
            "organization_id": self.project,
            "status": STATUS.get(job.state, "running"),
            "training_file": self.training_file,
            "validation_file": self.validation_file,
            "result_files": [ids.result_id(self.id)] if self.is_final and job.metrics.step else [],
            "trained_tokens": job.metrics.trained_tokens if self.is_final else None,
            "hyperparameters": hyper,
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyper}},
            "seed": self.recipe.seed,
            "integrations": None,
            "metadata": dict(job.labels) or None,
            "error": error_of(job.failure) if job.state == State.STATE_FAILED else None,
            "user_provided_suffix": self.recipe.suffix or None,
        }

    def _base(self) -> str:
        if self.recipe.base_model:
            return self._bases.short(self.recipe.base_model)
        continued = ids.TunedName.parse(self.model)
        return continued.base if continued is not None else UNKNOWN_BASE

    def _estimated_finish(self) -> int | None:
        job = self._job
        is_running = job.state == State.STATE_RUNNING and job.progress.HasField("eta")
        return seconds(job.progress.eta) if is_running else None


def error_of(failure: common_pb2.Failure) -> dict[str, JsonValue]:
    """What a failed job says; data problems by OpenAI's codes, anything else by our reason in small letters."""
    known = BY_REASON.get(failure.reason)
    is_about_rows = failure.reason.startswith("ROW_")
    is_about_data = (
        is_about_rows or failure.reason.startswith("DATASET_") or (known is not None and known.param == "file")
    )
    code = known.code if known else "invalid_training_file" if is_about_rows else failure.reason.lower()
    return {
        "code": code or "failed",
        "message": "\n".join([failure.message, *failure.advice]),
        "param": "training_file" if is_about_data else (known.param if known else None),
    }


def seconds(moment: Timestamp) -> int:
    return moment.seconds
