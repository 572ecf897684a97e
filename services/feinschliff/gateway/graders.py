"""Graders as OpenAI's JSON has them: their models by the names of this door, refusals by their paths, and trials."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import Field, JsonValue

from feinschliff.gateway.bodies import Body
from feinschliff.gateway.errors import ApiError, from_refusal
from feinschliff.gateway.models import Models
from feinschliff.graders import wire
from feinschliff.kit.errors import Refusal
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb

SAMPLE_CHARACTERS_MAX = 1_000_000
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,200}")
_NAMES = {"range_low": "range", "range_high": "range", "sampling": "sampling_params"}
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")
_FLAGS = (
    *("formula_parse_error", "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error"),
    *("invalid_variable_error", "other_error", "python_grader_server_error", "python_grader_runtime_error"),
    *("model_grader_server_error", "model_grader_refusal_error", "model_grader_parse_error"),
)
_DETAILS = (
    *("python_grader_server_error_type", "python_grader_runtime_error_details"),
    "model_grader_server_error_details",
)
_FLAG_OF: Mapping[int, str] = {
    pb.GraderError.KIND_TEMPLATE: "invalid_variable_error",
    pb.GraderError.KIND_FORMULA: "formula_parse_error",
    pb.GraderError.KIND_PYTHON: "python_grader_runtime_error",
    pb.GraderError.KIND_SANDBOX: "python_grader_server_error",
    pb.GraderError.KIND_JUDGE: "model_grader_server_error",
    pb.GraderError.KIND_JUDGE_REFUSED: "model_grader_refusal_error",
    pb.GraderError.KIND_JUDGE_UNREADABLE: "model_grader_parse_error",
    pb.GraderError.KIND_SAMPLE: "sample_parse_error",
}
"""All others are `other_error`."""
_DETAILS_OF = {
    "python_grader_runtime_error": "python_grader_runtime_error_details",
    "python_grader_server_error": "python_grader_server_error_type",
    "model_grader_server_error": "model_grader_server_error_details",
}


@contextmanager
def _refusing() -> Iterator[None]:
    """What is refused here names its place in the body already."""
    try:
        yield
    except Refusal as refusal:
        raise from_refusal(refusal, param_of=lambda field: field) from None


class GraderBody(Body):
    """`POST /v1/fine_tuning/alpha/graders/validate`."""

    grader: dict[str, JsonValue]

    def to_grader(self) -> pb.Grader:
        """Raises ApiError 400 by the path of what is no grader; what its fields may hold, evaluation decides."""
        with _refusing():
            return wire.to_message(self.grader)


class TrialBody(GraderBody):
    """`POST /v1/fine_tuning/alpha/graders/run`."""

    model_sample: str = Field(max_length=SAMPLE_CHARACTERS_MAX)
    item: dict[str, JsonValue] | None = None
    reference_answer: JsonValue = None

    def to_request(self, parent: str, grader: pb.Grader) -> pb.RunGraderRequest:
        part = common.Part(text=self.model_sample)
        sample = common.Message(role=common.ROLE_ASSISTANT, parts=[part])
        request = pb.RunGraderRequest(parent=parent, grader=grader, sample=sample)
        with _refusing():
            wire.fill(request.item, self.item or {}, "item")
        return request


async def with_models(project: str, grader: pb.Grader, models: Models) -> tuple[pb.Grader, Mapping[str, str]]:
    """The grader with its models as inference takes them, and for each such name the one that the caller used.

    A plain name that is no model of this door goes on as it is: it may be a judge that the installation has outside.

    Raises:
        ApiError: 400 model_not_found at its path, for any other name.
    """
    made, named = pb.Grader(), dict[str, str]()
    made.CopyFrom(grader)
    for holder, path in _models(made, "grader"):
        try:
            target = (await models.resolve(project, holder.model)).model
        except ApiError as error:
            if error.code != "model_not_found":
                raise
            if not _PLAIN.fullmatch(holder.model):
                raise ApiError(400, error.message, code=error.code, param=f"{path}.model") from None
            target = holder.model
        named[target] = holder.model
        holder.model = target
    return made, named


def _models(grader: pb.Grader, path: str) -> Iterator[tuple[Any, str]]:
    """Everything in a grader that names a model, with its path."""
    kind = grader.WhichOneof("kind")
    inner = getattr(grader, kind) if kind else None
    if isinstance(inner, pb.MultiGrader):
        for name, one in inner.graders.items():
            yield from _models(one, f"{path}.graders.{name}")
    elif isinstance(inner, pb.ChoiceGrader):
        if inner.likelihood.model:
            yield inner.likelihood, f"{path}.likelihood"
    elif isinstance(inner, pb.ScoreModelGrader | pb.LabelModelGrader | pb.TextSimilarityGrader) and inner.model:
        yield inner, path


def param_of(field: str) -> str | None:
    """The path in the body of what a refusal of evaluation names: a grader's fields lie beside its type there."""
    if field != "grader" and not field.startswith(("grader.", "grader[")):
        return field
    steps = [(name, index) for name, index in _STEP.findall(field)]
    path, before = "", ""
    for name, index in steps:
        if index:
            path += f".{index}" if before == "graders" and not index.isdigit() else f"[{index}]"
            before = ""
        elif name not in wire.KINDS or before not in ("grader", ""):
            shown = "content" if name == "text" and path.startswith("grader") and "input[" in path else name
            path += ("." if path else "") + _NAMES.get(shown, shown)
            before = name
    return path


def to_trial(grader: pb.Grader, response: pb.RunGraderResponse, named: Mapping[str, str]) -> JsonValue:
    """The result of a trial: what fails at a row is a reward of 0 with a flag, not an error of the call."""
    grade = response.grade
    usage = {named.get(model, model): _usage(one) for model, one in response.usage_by_model.items()}
    return {
        "reward": _reward(grade),
        "metadata": {
            "name": grader.name,
            "type": grader.WhichOneof("kind"),
            "errors": _errors(grade),
            "execution_time": response.seconds,
            "scores": dict(grade.parts) if grade.parts else {grader.name: _reward(grade)},
            "token_usage": response.usage.total_tokens if usage else None,
            "sampled_model_name": next(iter(usage), None),
        },
        "sub_rewards": dict(grade.parts),
        "model_grader_token_usage_per_model": dict(usage),
    }


def _reward(grade: pb.Grade) -> float:
    return grade.raw if grade.HasField("raw") else grade.value


def _errors(grade: pb.Grade) -> dict[str, JsonValue]:
    errors: dict[str, JsonValue] = {**dict.fromkeys(_FLAGS, False), **dict.fromkeys(_DETAILS)}
    if grade.HasField("error"):
        flag = _FLAG_OF.get(grade.error.kind, "other_error")
        errors[flag] = True
        if flag in _DETAILS_OF:
            errors[_DETAILS_OF[flag]] = grade.error.message
    return errors


def _usage(usage: common.TokenUsage) -> dict[str, JsonValue]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
