"""Training that is measured: the base on the same rows first, so that "better" means better than something."""

from __future__ import annotations

from rich.console import Group

from feinschliff.cli import evals, serving
from feinschliff.cli.names import short
from feinschliff.cli.pages import every
from feinschliff.cli.services import refusals
from feinschliff.cli.session import Session
from feinschliff.kit.errors import WrongState
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import training_pb2


def baseline_run(session: Session, evaluation: str, base: str) -> pb.EvalRun:
    """The newest complete run of the base with the eval's own prompt and rows, made where there is none.

    Raises:
        WrongState: BASELINE_INCOMPLETE where the base cannot be measured.
    """
    query = pb.ListEvalRunsRequest(parent=evaluation, filter='state = "COMPLETED"')
    found: list[pb.EvalRun] = every(session.services.evaluation.ListEvalRuns, query, lambda page: page.eval_runs)
    for run in found:
        if run.model == base and _is_plain(run):
            return run
    serving.require(session, base, make=True)
    return _complete(session, evaluation, base, title="measuring the base")


def verdict(session: Session, evaluation: str, baseline: pb.EvalRun, model_version: str) -> pb.RunComparison:
    """Measures what was trained, and compares it with the baseline row by row.

    Raises:
        WrongState: BASELINE_INCOMPLETE.
    """
    serving.require(session, model_version, make=True)
    tuned = _complete(session, evaluation, model_version, title="measuring what was trained")
    with refusals():
        request = pb.CompareRunsRequest(baseline=baseline.name, candidate=tuned.name)
        return session.services.evaluation.CompareRuns(request)


def base_named_by(recipe: training_pb2.TrainingRecipe) -> str:
    return str(recipe.from_model_version or recipe.base_model)


def shown(comparison: pb.RunComparison) -> Group:
    return evals.compared(comparison)


def _is_plain(run: pb.EvalRun) -> bool:
    """Whether a run measures just what its eval says."""
    changed = ("sampling", "prompt", "examples", "completions")
    said = any(run.HasField(name) and getattr(run, name).ByteSize() for name in changed)  # type: ignore[arg-type]
    return not (said or run.limit or run.tools or run.overall.errored)


def _complete(session: Session, evaluation: str, model: str, *, title: str) -> pb.EvalRun:
    started = evals.start_run(session.services, evaluation, model)
    run = evals.finished(session.services, session.output, started.name, title=title)
    if run.state != pb.EvalRun.STATE_COMPLETED or run.overall.errored:
        why = run.failure.message or f"{run.overall.errored} rows got no answer."
        message = f"{short(run.name)} cannot be compared with, so nothing is said about better: {why}"
        raise WrongState("BASELINE_INCOMPLETE", message, run=run.name)
    return run
