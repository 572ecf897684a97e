"""Graders and grades between the API's messages and the shelf's words."""

from __future__ import annotations

from feinschliff.evaluation.resources import GradeGiven
from feinschliff.graders.grader import Grader
from feinschliff.graders.spec import Spec
from feinschliff.v1 import evaluation_pb2 as pb


def from_grader(grader: pb.Grader) -> Spec:
    """The definition as the shelf reads it; what is not set is left out, so that the shelf's defaults hold."""
    spec: dict[str, object] = {"name": grader.name}
    kind = grader.WhichOneof("kind")
    if kind is not None:
        spec["type"] = kind
    if kind == "string_check":
        check = grader.string_check
        operation = pb.StringCheckGrader.Operation.Name(check.operation).removeprefix("OPERATION_").lower()
        spec |= {"input": check.input, "reference": check.reference, "operation": operation}
    elif kind == "text_similarity":
        similarity = grader.text_similarity
        metric = pb.TextSimilarityGrader.Metric.Name(similarity.evaluation_metric).removeprefix("METRIC_").lower()
        spec |= {"input": similarity.input, "reference": similarity.reference, "evaluation_metric": metric}
        if similarity.HasField("pass_threshold"):
            spec["pass_threshold"] = similarity.pass_threshold
        if similarity.model:
            spec["model"] = similarity.model
    return spec


def to_grader(grader: Grader) -> pb.Grader:
    """The grader with every default filled in."""
    spec = {key: value for key, value in grader.spec().items() if isinstance(value, str | float)}
    made = pb.Grader(name=grader.name)
    if grader.type == "string_check":
        operation = pb.StringCheckGrader.Operation.Value(f"OPERATION_{spec['operation']}".upper())
        made.string_check.CopyFrom(
            pb.StringCheckGrader(input=str(spec["input"]), reference=str(spec["reference"]), operation=operation)
        )
    else:
        metric = pb.TextSimilarityGrader.Metric.Value(f"METRIC_{spec['evaluation_metric']}".upper())
        made.text_similarity.CopyFrom(
            pb.TextSimilarityGrader(
                input=str(spec["input"]),
                reference=str(spec["reference"]),
                evaluation_metric=metric,
                pass_threshold=grader.pass_threshold,
            )
        )
    return made


def to_grade(grade: GradeGiven) -> pb.Grade:
    made = pb.Grade(grader=grade.grader, value=grade.value, passed=grade.passed, why=grade.why)
    if grade.value is None:  # the graders served so far fail by what their templates give, and by nothing else
        made.error.CopyFrom(pb.GraderError(kind=pb.GraderError.KIND_TEMPLATE, message=grade.why))
    return made
