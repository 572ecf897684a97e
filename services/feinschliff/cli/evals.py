"""An eval and its runs: what is asked, how answers are graded, followed until all items are done."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from feinschliff.cli.following import follow
from feinschliff.cli.names import short
from feinschliff.cli.output import Output, facts, number, seconds, table
from feinschliff.cli.progress import ProgressView
from feinschliff.cli.services import Services, refusals
from feinschliff.cli.words import failure, findings, state
from feinschliff.kit.errors import AlreadyExists
from feinschliff.v1 import common_pb2
from feinschliff.v1 import evaluation_pb2 as pb

ANSWER = "{{ sample.output_text }}"
REFERENCE = "{{ item.completion }}"
FINAL = {pb.EvalRun.STATE_COMPLETED, pb.EvalRun.STATE_FAILED, pb.EvalRun.STATE_CANCELLED}
OPERATIONS = {
    "exact": pb.StringCheckGrader.OPERATION_EQ,
    "contains": pb.StringCheckGrader.OPERATION_CONTAINS,
    "icontains": pb.StringCheckGrader.OPERATION_ILIKE,
}
GRADERS = (*OPERATIONS, "similar")
SPLITS = {
    "auto": common_pb2.SPLIT_UNSPECIFIED,
    "train": common_pb2.SPLIT_TRAIN,
    "validation": common_pb2.SPLIT_VALIDATION,
    "test": common_pb2.SPLIT_TEST,
}


@dataclass(frozen=True)
class Question:
    """What is measured: rows, how they become prompts, how answers are drawn and graded.

    Args:
        prompt: template of the user's turn; empty takes the row's own messages before its last answer.
        grader: one of `GRADERS`.
        threshold: value from which `similar` passes, 0 to 1.
    """

    dataset_version: str
    grader: str = "exact"
    reference: str = REFERENCE
    system: str = ""
    prompt: str = ""
    split: str = "auto"
    max_tokens: int = 256
    temperature: float = 0.0
    threshold: float = 0.8


def eval_of(question: Question) -> pb.Eval:
    """The eval that a question is; equal questions give equal evals."""
    made = pb.Eval(
        dataset_version=question.dataset_version,
        graders=[grader_of(question)],
        sampling=common_pb2.SamplingParams(temperature=question.temperature, max_tokens=question.max_tokens),
        split=SPLITS[question.split],
    )
    if question.prompt:
        turns = [(common_pb2.ROLE_SYSTEM, question.system), (common_pb2.ROLE_USER, question.prompt)]
        made.prompt.messages.messages.extend(pb.TemplateMessage(role=role, text=text) for role, text in turns if text)
    return made


def grader_of(question: Question) -> pb.Grader:
    if question.grader == "similar":
        return pb.Grader(
            name=question.grader,
            text_similarity=pb.TextSimilarityGrader(
                input=ANSWER,
                reference=question.reference,
                evaluation_metric=pb.TextSimilarityGrader.METRIC_FUZZY_MATCH,
                pass_threshold=question.threshold,
            ),
        )
    return pb.Grader(
        name=question.grader,
        string_check=pb.StringCheckGrader(
            input=ANSWER, reference=question.reference, operation=OPERATIONS[question.grader]
        ),
    )


def eval_id(question: Question) -> str:
    """The same for the same question, so that its runs stand in one eval: `routing-exact-1f2e3d4c`."""
    digest = hashlib.sha256(eval_of(question).SerializeToString(deterministic=True)).hexdigest()[:8]
    return f"{question.dataset_version.split('/')[3][:40].rstrip('-._')}-{question.grader}-{digest}"


def ensure_eval(services: Services, parent: str, question: Question) -> str:
    """The name of the eval of this question, made if it is new."""
    request = pb.CreateEvalRequest(parent=parent, eval_id=eval_id(question), eval=eval_of(question))
    try:
        with refusals():
            return services.evaluation.CreateEval(request).name
    except AlreadyExists:
        return f"{parent}/evals/{request.eval_id}"


def start_run(
    services: Services,
    evaluation: str,
    model: str,
    *,
    limit: int = 0,
    concurrency: int = 0,
    prompt: pb.PromptTemplate | None = None,
) -> pb.EvalRun:
    """Args: prompt: stands in for the eval's own, in this run alone."""
    run = pb.EvalRun(model=model, limit=limit, concurrency=concurrency, prompt=prompt)
    with refusals():
        return services.evaluation.CreateEvalRun(pb.CreateEvalRunRequest(parent=evaluation, eval_run=run))


def finished(services: Services, output: Output, run: str, *, title: str) -> pb.EvalRun:
    """Shows a run until it is over; the run as it ended."""

    def open_stream(at: int) -> Iterator[pb.WatchEvalRunResponse]:
        return services.evaluation.WatchEvalRun(pb.WatchEvalRunRequest(name=run, cursor=at))

    with ProgressView(output.err, title, is_silent=output.as_json) as view:
        for response in follow(open_stream, lambda one: one.eval_run.state in FINAL):
            seen = response.eval_run
            so_far = f"{number(seen.overall.mean, 3)} so far" if seen.overall.HasField("mean") else ""
            view.at(seen.progress.done, seen.progress.total, so_far)
            if seen.state in FINAL:
                return seen
    raise AssertionError("following ends with a final state")


def described(run: pb.EvalRun) -> Group:
    """A run as a person reads it."""
    took = run.finish_time.ToNanoseconds() - run.start_time.ToNanoseconds() if run.HasField("finish_time") else 0
    results = [run.overall, *run.results] if len(run.results) > 1 else run.results
    n, rows = run.overall.n, run.overall.clusters
    return Group(
        facts(
            {
                "run": short(run.name),
                "model": short(run.model),
                "state": state(pb.EvalRun.State.Name, run.state),
                "tokens": f"{run.usage.prompt_tokens} prompt, {run.usage.completion_tokens} answer",
                "tokens of judges": run.judge_usage.total_tokens or "",
                "took": seconds(took / 1e9) if took > 0 and run.HasField("start_time") else "",
                "different rows": f"{rows}; intervals count those" if 0 < rows < n else "",
                "failure": failure(run.failure),
            }
        ),
        table(
            ("GRADER", "#N", "#PASSED", "#MEAN", "95% INTERVAL", "#UNGRADED", "#ERRORED"),
            ((one.grader, one.n, one.passed, mean(one), interval(one), one.ungradable, one.errored) for one in results),
        ),
    )


def compared(comparison: pb.RunComparison) -> Group:
    """A comparison as a person reads it."""
    c = comparison
    low, high = c.interval.low, c.interval.high
    method = pb.RunComparison.Method.Name(c.method).removeprefix("METHOD_").lower().replace("_", " ")
    return Group(
        facts(
            {
                "baseline": f"{short(c.baseline)}  {number(c.baseline_mean, 3)}",
                "candidate": f"{short(c.candidate)}  {number(c.candidate_mean, 3)}",
                "grader": c.grader,
                "rows in both": f"{c.n}, of which {c.clusters} differ" if 0 < c.clusters < c.n else c.n,
                "difference": f"{c.difference:+.3f}"
                + (f" [{low:+.3f}, {high:+.3f}]" if c.HasField("interval") else ""),
                "better, worse, equal": f"{c.wins}, {c.losses}, {c.ties}",
                "p": f"{c.p_value:.3g} ({method})" if c.HasField("p_value") else "",
                "verdict": pb.RunComparison.Verdict.Name(c.verdict).removeprefix("VERDICT_").lower(),
            }
        ),
        *findings(c.findings),
        Text(""),
    )


def mean(result: pb.GraderResult) -> str:
    return f"{result.mean:.3f}" if result.HasField("mean") else "-"


def interval(result: pb.GraderResult) -> str:
    return f"[{result.interval.low:.3f}, {result.interval.high:.3f}]" if result.HasField("interval") else "-"
