"""Between the API's messages and our own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from feinschliff.evaluation.clients import FINISH_REASONS, SPLITS
from feinschliff.evaluation.drafts import CompletionsDraft, EvalDraft, Once, RunDraft
from feinschliff.evaluation.grading.proto import from_grader, to_grade, to_grader
from feinschliff.evaluation.life import State
from feinschliff.evaluation.messages import (
    from_sampling,
    from_struct,
    from_tool,
    role_name,
    role_number,
    to_message,
    to_sampling,
    to_struct,
    to_tool,
)
from feinschliff.evaluation.prompts.examples import ExamplesDraft
from feinschliff.evaluation.prompts.prompt import PromptSpec
from feinschliff.evaluation.resources import (
    OVERALL,
    Eval,
    GraderResult,
    Identity,
    OutputItem,
    Run,
    Split,
    Usage,
)
from feinschliff.evaluation.runs.comparisons import RunComparison
from feinschliff.evaluation.runs.runs import RunView
from feinschliff.evaluation.statistics.intervals import CONFIDENCE, Interval, Method
from feinschliff.evaluation.statistics.paired import Verdict
from feinschliff.formats.report import Failure
from feinschliff.graders.protocol import Grader
from feinschliff.kit.idempotency import digest_of
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb

STATES: Mapping[State, pb.EvalRun.State.ValueType] = {
    State.QUEUED: pb.EvalRun.STATE_QUEUED,
    State.RUNNING: pb.EvalRun.STATE_RUNNING,
    State.CANCELLING: pb.EvalRun.STATE_CANCELLING,
    State.COMPLETED: pb.EvalRun.STATE_COMPLETED,
    State.FAILED: pb.EvalRun.STATE_FAILED,
    State.CANCELLED: pb.EvalRun.STATE_CANCELLED,
}
VERDICTS: Mapping[Verdict, pb.RunComparison.Verdict.ValueType] = {
    Verdict.BETTER: pb.RunComparison.VERDICT_BETTER,
    Verdict.WORSE: pb.RunComparison.VERDICT_WORSE,
    Verdict.NOT_ENOUGH_EVIDENCE: pb.RunComparison.VERDICT_INCONCLUSIVE,
}
METHODS: Mapping[Method, pb.RunComparison.Method.ValueType] = {
    Method.MCNEMAR_NEWCOMBE: pb.RunComparison.METHOD_MCNEMAR,
    Method.SIGN_FLIP_BOOTSTRAP: pb.RunComparison.METHOD_PAIRED_BOOTSTRAP,
}
_SPLIT_NAMES: Mapping[int, Split] = {number: name for name, number in SPLITS.items()}
_FINISH_NUMBERS = {name: number for number, name in FINISH_REASONS.items()}
_ROWS_MAX = 1000


def from_create_eval(request: pb.CreateEvalRequest) -> tuple[EvalDraft, Once]:
    wanted = request.eval
    draft = EvalDraft(
        parent=request.parent,
        eval_id=request.eval_id,
        display_name=wanted.display_name,
        description=wanted.description,
        dataset_version=wanted.dataset_version,
        prompt=from_prompt(wanted.prompt) if wanted.HasField("prompt") else None,
        graders=[from_grader(grader) for grader in wanted.graders],
        sampling=from_sampling(wanted.sampling),
        split=_SPLIT_NAMES.get(wanted.split, ""),
        labels=dict(wanted.labels),
        annotations=dict(wanted.annotations),
        item_schema=from_struct(wanted.item_schema) if wanted.HasField("item_schema") else None,
    )
    return draft, Once(request.request_id, digest_of(request))


def to_eval(eval_: Eval, graders: list[Grader]) -> pb.Eval:
    return pb.Eval(
        name=eval_.name,
        display_name=eval_.display_name,
        description=eval_.description,
        dataset_version=eval_.dataset_version,
        prompt=to_prompt(eval_.prompt),
        graders=map(to_grader, graders),
        item_schema=None if eval_.item_schema is None else to_struct(eval_.item_schema),
        sampling=to_sampling(eval_.sampling),
        split=SPLITS[eval_.split],
        labels=eval_.labels,
        annotations=eval_.annotations,
        create_time=to_time(eval_.created),
        update_time=to_time(eval_.updated),
        etag=str(eval_.version),
    )


def from_create_run(request: pb.CreateEvalRunRequest) -> tuple[RunDraft, Once]:
    wanted = request.eval_run
    draft = RunDraft(
        parent=request.parent,
        run_id=request.eval_run_id,
        display_name=wanted.display_name,
        model=wanted.model,
        dataset_version=wanted.dataset_version,
        sampling=from_sampling(wanted.sampling),
        prompt=from_prompt(wanted.prompt) if wanted.HasField("prompt") else None,
        split=_SPLIT_NAMES.get(wanted.split, ""),
        limit=wanted.limit,
        concurrency=wanted.concurrency,
        answer_path=wanted.answer_path,
        labels=dict(wanted.labels),
        annotations=dict(wanted.annotations),
        rows=[from_struct(row) for row in wanted.rows],
        completions=_from_completions(wanted.completions) if wanted.HasField("completions") else None,
        tools=[from_tool(tool) for tool in wanted.tools],
        examples=_from_examples(wanted.examples) if wanted.HasField("examples") else None,
    )
    return draft, Once(request.request_id, digest_of(request))


def to_run(view: RunView, now: datetime) -> pb.EvalRun:
    run = view.run
    by_judge = run.judge_usage or {}
    return pb.EvalRun(
        name=run.name,
        display_name=run.display_name,
        model=run.model,
        state=STATES[run.state],
        sampling=to_sampling(run.sampling),
        prompt=None if run.prompt is None else to_prompt(run.prompt),
        dataset_version=run.dataset_version,
        split=SPLITS[run.split],
        limit=run.limit,
        concurrency=run.concurrency,
        tools=map(to_tool, run.tools or ()),
        completions=None if run.completions is None else pb.CompletionRows(**run.completions),  # type: ignore[arg-type]
        examples=None if run.examples is None else _to_examples(run.examples),
        answer_path=run.answer_path,
        progress=_progress(run, now),
        failure=to_failure(run.failure),
        results=[to_result(result) for result in view.results if result.grader != OVERALL],
        overall=next((to_result(result) for result in view.results if result.grader == OVERALL), None),
        usage=to_usage(view.usage),
        judge_usage=_to_judge_usage([*by_judge.values()]) if by_judge else None,
        judge_usage_by_model={model: _to_judge_usage([used]) for model, used in by_judge.items()},
        identity=_to_identity(view.identities[0]) if view.identities else None,
        other_identities=[_to_identity(identity) for identity in view.identities[1:]],
        labels=run.labels,
        annotations=run.annotations,
        create_time=to_time(run.created),
        start_time=to_time(run.started),
        finish_time=to_time(run.finished),
        etag=str(run.version),
    )


def to_item(item: OutputItem) -> pb.OutputItem:
    return pb.OutputItem(
        name=f"{item.run}/items/{item.position}",
        line=item.line,
        item=to_struct(item.item),
        prompt=map(to_message, item.prompt),
        sample=item.sample,
        message=None if item.message is None else to_message(item.message),
        finish_reason=_FINISH_NUMBERS.get(item.finish_reason, 0),  # type: ignore[arg-type]
        usage=to_usage(item.usage),
        latency_seconds=item.latency_seconds,
        identity=None if item.identity is None else _to_identity(item.identity),
        grades=map(to_grade, item.grades),
        passed=item.passed is True,
        error=to_failure(item.error),
        create_time=to_time(item.created),
        sample_index=item.sample_index,
    )


def to_comparison(comparison: RunComparison) -> pb.RunComparison:
    numbers = comparison.numbers
    return pb.RunComparison(
        baseline=comparison.baseline,
        candidate=comparison.candidate,
        grader=comparison.grader,
        n=numbers.n,
        baseline_mean=numbers.mean_first,
        candidate_mean=numbers.mean_second,
        difference=numbers.difference,
        interval=to_interval(numbers.interval, comparison.level),
        p_value=numbers.p,
        method=METHODS.get(numbers.method, pb.RunComparison.METHOD_UNSPECIFIED),
        verdict=VERDICTS[comparison.verdict],
        wins=numbers.wins,
        losses=numbers.losses,
        ties=numbers.ties,
        findings=_findings(comparison),
        comparisons=comparison.comparisons,
        p_value_adjusted=comparison.p_adjusted,
        power=comparison.power,
        rows_needed=comparison.rows_needed,
        clusters=numbers.clusters,
    )


def _findings(comparison: RunComparison) -> list[common.Finding]:
    left_out, numbers = comparison.lines_left_out, comparison.numbers
    found = []
    if left_out:
        message = f"{len(left_out)} rows were not graded in both runs and count in neither mean."
        found.append(warning("ROWS_LEFT_OUT", len(left_out), message, rows=left_out[:_ROWS_MAX]))
    if numbers.note:
        found.append(warning("TOO_FEW_ROWS", numbers.n, numbers.note))
    if 0 < numbers.clusters < numbers.n:
        message = f"Only {numbers.clusters} of {numbers.n} rows differ; interval and test count those."
        found.append(warning("ROWS_REPEATED", numbers.n - numbers.clusters, message))
    changed = [warning("MODEL_CHANGED", 1, f"More than one model answered in {run}.") for run in comparison.changed]
    differing = [
        warning("RUNS_DIFFER", 1, f"The runs differ in {what}, not only in the model.", field=what)
        for what in comparison.differing
    ]
    return [*found, *changed, *differing]


def warning(code: str, count: int, message: str, *, rows: Sequence[int] = (), field: str = "") -> common.Finding:
    return common.Finding(
        severity=common.SEVERITY_WARNING, code=code, count=count, message=message, rows=rows, field=field
    )


def _from_completions(wanted: pb.CompletionRows) -> CompletionsDraft:
    return CompletionsDraft(wanted.filter, wanted.limit)


def _from_examples(wanted: pb.FewShot) -> ExamplesDraft:
    split: Split = _SPLIT_NAMES.get(wanted.split, "") or "train"
    return ExamplesDraft(wanted.dataset_version, split, wanted.count, wanted.seed, wanted.answer)


def _to_examples(stored: Mapping[str, Any]) -> pb.FewShot:
    return pb.FewShot(
        dataset_version=stored["dataset_version"],
        split=SPLITS[stored["split"]],
        count=stored["count"],
        seed=stored["seed"],
        answer=stored["answer"],
    )


def from_prompt(prompt: pb.PromptTemplate) -> PromptSpec:
    source = prompt.WhichOneof("source")
    if source == "item_reference":
        return {"item_reference": prompt.item_reference}
    if source == "prompt":
        return {"prompt": prompt.prompt}
    return {"messages": from_turns(prompt.messages.messages)}


def from_turns(turns: Iterable[pb.TemplateMessage]) -> list[dict[str, object]]:
    return [{"role": role_name(turn.role), "text": turn.text} for turn in turns]


def to_turns(turns: Iterable[Mapping[str, Any]]) -> list[pb.TemplateMessage]:
    return [pb.TemplateMessage(role=role_number(turn["role"]), text=turn["text"]) for turn in turns]


def to_prompt(spec: PromptSpec) -> pb.PromptTemplate:
    if "prompt" in spec:
        return pb.PromptTemplate(prompt=str(spec["prompt"]))
    messages = spec.get("messages")
    if not isinstance(messages, list):
        return pb.PromptTemplate(item_reference=str(spec["item_reference"]))
    return pb.PromptTemplate(messages=pb.TemplateMessages(messages=to_turns(messages)))


def _progress(run: Run, now: datetime) -> common.Progress:
    """With an eta from the mean speed since the run began."""
    progress = common.Progress(fraction=run.done / run.total, done=run.done, total=run.total, unit="items")
    if run.state is State.RUNNING and run.started is not None and 0 < run.done < run.total:
        seconds = (now - run.started).total_seconds() / run.done * (run.total - run.done)
        progress.eta.FromDatetime(now + timedelta(seconds=seconds))
    return progress


def to_result(result: GraderResult) -> pb.GraderResult:
    return pb.GraderResult(
        grader=result.grader,
        n=result.n,
        ungradable=result.ungradable,
        errored=result.errored,
        passed=result.passed,
        mean=result.mean,
        interval=to_interval(result.interval, CONFIDENCE),
        pass_at=result.pass_at,
        pass_all=result.pass_all,
        clusters=result.clusters,
    )


def _to_judge_usage(used: Sequence[Sequence[int]]) -> common.TokenUsage:
    return to_usage(Usage(*(sum(tokens) for tokens in zip(*used, strict=True))))


def to_interval(interval: Interval | None, level: float) -> common.Interval | None:
    return None if interval is None else common.Interval(low=interval.low, high=interval.high, level=level)


def to_usage(usage: Usage) -> common.TokenUsage:
    return common.TokenUsage(**usage._asdict(), total_tokens=usage.prompt_tokens + usage.completion_tokens)


def _to_identity(identity: Identity) -> common.Identity:
    return common.Identity(**identity._asdict())


def to_failure(failure: Failure | None) -> common.Failure | None:
    if failure is None:
        return None
    return common.Failure(
        reason=failure.reason, message=failure.message, advice=failure.advice, retryable=failure.retryable
    )


def to_time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    made = Timestamp()
    made.FromDatetime(moment)
    return made
