"""Searches for better prompts between the API's messages and our own words."""

from __future__ import annotations

from collections.abc import Mapping

from feinschliff.evaluation.drafts import Once
from feinschliff.evaluation.optimization.optimizations import OptimizationDraft, OptimizationView
from feinschliff.evaluation.proto import to_comparison, to_failure, to_time, to_usage
from feinschliff.kit.idempotency import digest_of
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb

_STATES: Mapping[str, pb.PromptOptimization.State.ValueType] = {
    "queued": pb.PromptOptimization.STATE_QUEUED,
    "running": pb.PromptOptimization.STATE_RUNNING,
    "succeeded": pb.PromptOptimization.STATE_SUCCEEDED,
    "failed": pb.PromptOptimization.STATE_FAILED,
    "cancelled": pb.PromptOptimization.STATE_CANCELLED,
}


def from_optimize(request: pb.OptimizePromptRequest) -> tuple[OptimizationDraft, Once]:
    wanted = request.prompt_optimization
    draft = OptimizationDraft(
        parent=request.parent,
        optimization_id=request.prompt_optimization_id,
        eval=wanted.eval,
        model=wanted.model,
        proposer_model=wanted.proposer_model,
        start_prompt=wanted.start_prompt,
        candidates_max=wanted.candidates_max,
        examples_max=wanted.examples_max,
        seed=wanted.seed,
    )
    return draft, Once(request.request_id, digest_of(request))


def to_optimization(view: OptimizationView) -> pb.PromptOptimization:
    seen = view.optimization
    done, total = seen.measured, seen.candidates_max
    return pb.PromptOptimization(
        name=seen.name,
        state=_STATES[seen.state],
        eval=seen.eval,
        model=seen.model,
        proposer_model=seen.proposer_model,
        start_prompt=seen.start_prompt,
        candidates_max=seen.candidates_max,
        examples_max=seen.examples_max,
        seed=seen.seed,
        best_prompt=seen.best_prompt,
        comparison=None if view.comparison is None else to_comparison(view.comparison),
        progress=common.Progress(fraction=done / total, done=done, total=total, unit="candidates"),
        failure=to_failure(seen.failure),
        usage=to_usage(view.usage),
        create_time=to_time(seen.created),
        finish_time=to_time(seen.finished),
        etag=str(seen.version),
    )
