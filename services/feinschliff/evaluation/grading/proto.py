"""Graders and grades between the API's messages and the shelf's words."""

from __future__ import annotations

from feinschliff.evaluation.messages import role_number
from feinschliff.evaluation.resources import GradeGiven
from feinschliff.graders import wire
from feinschliff.graders.grade import Fault, Judgement
from feinschliff.graders.protocol import Grader
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb

from_grader = wire.from_message


def to_grader(grader: Grader) -> pb.Grader:
    """The grader with every default filled in."""
    return wire.to_message(grader.spec())


def to_grade(grade: GradeGiven) -> pb.Grade:
    made = pb.Grade(
        grader=grade.grader,
        value=grade.value,
        passed=grade.passed,
        why=grade.why,
        parts=grade.parts,
        raw=grade.raw,
        label=grade.label,
        expected_label=grade.expected_label,
    )
    if grade.value is None:
        kind = pb.GraderError.Kind.Value(f"KIND_{grade.fault or Fault.TEMPLATE}".upper())
        made.error.CopyFrom(pb.GraderError(kind=kind, message=grade.why))
    if grade.judgements:
        first, *others = grade.judgements
        made.judge.CopyFrom(_to_call(first, with_prompt=True))
        made.more_judgements.extend(_to_call(one, with_prompt=False) for one in others)
    return made


def to_trial(grade: GradeGiven, seconds: float) -> pb.RunGraderResponse:
    """What one grade of one answer took, by judge and together."""
    response = pb.RunGraderResponse(grade=to_grade(grade), seconds=seconds)
    for one in grade.judgements:
        usage = to_usage(one.prompt_tokens, one.completion_tokens)
        response.usage.CopyFrom(_sum(response.usage, usage))
        by_model = response.usage_by_model[one.model]
        by_model.CopyFrom(_sum(by_model, usage))
    return response


def _sum(first: common.TokenUsage, second: common.TokenUsage) -> common.TokenUsage:
    return to_usage(first.prompt_tokens + second.prompt_tokens, first.completion_tokens + second.completion_tokens)


def to_usage(prompt_tokens: int, completion_tokens: int) -> common.TokenUsage:
    total = prompt_tokens + completion_tokens
    return common.TokenUsage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total)


def _to_call(one: Judgement, *, with_prompt: bool) -> pb.JudgeCall:
    turns = one.prompt if with_prompt else ()
    return pb.JudgeCall(
        identity=common.Identity(**one.identity),
        prompt=[
            common.Message(role=role_number(turn["role"]), parts=[common.Part(text=turn["content"])])  # type: ignore[arg-type]
            for turn in turns
        ],
        answer=one.answer,
        usage=to_usage(one.prompt_tokens, one.completion_tokens),
        model=one.model,
        instructions=one.instructions,
    )
