"""Evals and runs as people ask for them, checked and filled in; all pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from feinschliff.evaluation import checks
from feinschliff.evaluation.item_schema import ItemSchema, check_paths, check_schema
from feinschliff.evaluation.prompts.examples import ExamplesDraft, check_examples
from feinschliff.evaluation.prompts.prompt import DEFAULT_ANSWER, DEFAULT_REFERENCE, Prompt, PromptSpec
from feinschliff.evaluation.resources import OVERALL, PROJECT, DatasetFacts, Eval, Run, Sampling, Split
from feinschliff.graders import template
from feinschliff.graders.grade import Item
from feinschliff.graders.grader import parse_all
from feinschliff.graders.spec import Spec, refused
from feinschliff.kit import names
from feinschliff.kit.errors import WrongState

MODEL_CHARACTERS_MAX = 500
ROWS_MAX = 1000
COMPLETIONS_MAX = 10_000
COMPLETIONS_DEFAULT = 1000
STORED_ANSWER = "item.answer"


class Once(NamedTuple):
    """What makes a create safe to repeat: the caller's id and the digest of the body."""

    request_id: str
    body_digest: str


class EvalDraft(NamedTuple):
    """An eval as its maker wants it; `split` empty: not said."""

    parent: str
    eval_id: str
    display_name: str
    description: str
    dataset_version: str
    prompt: PromptSpec | None
    graders: Sequence[Spec]
    sampling: Sampling
    split: Split
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    item_schema: Mapping[str, object] | None = None


class CompletionsDraft(NamedTuple):
    """Stored completions as rows: a filter of the log, and how many of the newest; 0: the default."""

    filter: str
    limit: int


class RunDraft(NamedTuple):
    """A run as its maker wants it; what is empty comes from the eval. At most one kind of rows is named."""

    parent: str
    run_id: str
    display_name: str
    model: str
    dataset_version: str
    sampling: Sampling
    prompt: PromptSpec | None
    split: Split
    limit: int
    concurrency: int
    answer_path: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    rows: Sequence[Item] = ()
    completions: CompletionsDraft | None = None
    tools: Sequence[Mapping[str, object]] = ()
    examples: ExamplesDraft | None = None


class Brought(NamedTuple):
    """What was fetched for a run: rows of its own, examples as they are kept, and the sampling of its stored prompt."""

    rows: Sequence[Item] = ()
    examples: Mapping[str, object] | None = None
    prompt_sampling: Sampling = MappingProxyType({})


NOTHING = Brought()


def eval_of(draft: EvalDraft, dataset: DatasetFacts | None, new_id: str, now: datetime) -> Eval:
    """The eval to store; without a dataset each run must name its own.

    Raises:
        Invalid: what `parse_all`, `Prompt.from_spec` and the limits refuse.
        WrongState: DATASET_VERSION_NOT_READY.
    """
    names.parse(PROJECT, draft.parent, field="parent")
    checks.check_words(draft.display_name, draft.description, draft.labels, draft.annotations, "eval")
    checks.check_sampling(draft.sampling, "eval.sampling")
    prompt = draft.prompt or {"item_reference": DEFAULT_REFERENCE}
    Prompt.from_spec(prompt, field="eval.prompt")
    graders = _graders(draft.graders)
    checks.samples_of(draft.sampling, "eval.sampling")
    if draft.item_schema is not None:
        check_schema(draft.item_schema, "eval.item_schema")
        check_paths([graders, prompt], draft.item_schema, "eval.item_schema")
    if dataset is not None:
        _check_ready(dataset)
    eval_id = names.check_id(draft.eval_id, field="eval_id") if draft.eval_id else new_id
    return Eval(
        name=f"{draft.parent}/evals/{eval_id}",
        parent=draft.parent,
        display_name=draft.display_name or eval_id,
        description=draft.description,
        dataset_version=draft.dataset_version,
        prompt=prompt,
        graders=graders,
        sampling=draft.sampling,
        split=draft.split,
        labels=draft.labels,
        annotations=draft.annotations,
        created=now,
        updated=now,
        item_schema=draft.item_schema,
    )


def run_of(
    draft: RunDraft,
    eval_: Eval,
    dataset: DatasetFacts | None,
    new_id: str,
    request_id: str,
    now: datetime,
    brought: Brought = NOTHING,
) -> Run:
    """The run to store, queued, with the rows that count decided.

    Raises:
        Invalid: what prompts, paths, sampling and the limits refuse; ROW_INVALID.
        WrongState: DATASET_VERSION_MISSING, DATASET_VERSION_NOT_READY, RUN_WITHOUT_ROWS.
    """
    if dataset is None:
        message = f"{eval_.name} names no dataset version, so the run must, or bring rows."
        raise WrongState("DATASET_VERSION_MISSING", message, eval=eval_.name)
    _check_run(draft, eval_)
    _check_own_rows(draft.rows, eval_)
    answer_path = draft.answer_path or (DEFAULT_ANSWER if draft.completions is None else STORED_ANSWER)
    template.parse_path(answer_path, field="eval_run.answer_path")
    has_own_rows = bool(draft.rows) or draft.completions is not None
    split, count = _rows_that_count("" if has_own_rows else draft.split or eval_.split, dataset)
    run_id = names.check_id(draft.run_id, field="eval_run_id") if draft.run_id else new_id
    samples = checks.samples_of({**brought.prompt_sampling, **eval_.sampling, **draft.sampling}, "eval_run.sampling")
    return Run(
        name=f"{eval_.name}/runs/{run_id}",
        eval=eval_.name,
        project=eval_.parent,
        display_name=draft.display_name or draft.model[: checks.DISPLAY_NAME_CHARACTERS_MAX],
        model=draft.model,
        dataset_version=dataset.name,
        sampling=draft.sampling,
        prompt=draft.prompt,
        split=split,
        limit=draft.limit,
        concurrency=draft.concurrency,
        answer_path=answer_path,
        labels=draft.labels,
        annotations=draft.annotations,
        total=(min(count, draft.limit) if draft.limit else count) * samples,
        created=now,
        lease_until=now,
        request_id=request_id,
        samples=samples,
        has_own_rows=has_own_rows,
        tools=draft.tools or None,
        completions=None if draft.completions is None else draft.completions._asdict(),
        examples=brought.examples,
    )


def check_sources(draft: RunDraft) -> None:
    """Raises Invalid ROWS_SEVERAL, ROWS_TOO_MANY, EXAMPLES_INVALID or what the examples' answer refuses."""
    named = [name for name in ("rows", "completions", "dataset_version") if getattr(draft, name)]
    if len(named) > 1:
        message = f"A run has one kind of rows; this one names {' and '.join(named)}."
        raise refused("ROWS_SEVERAL", f"eval_run.{named[0]}", message, named=", ".join(named))
    if len(draft.rows) > ROWS_MAX:
        message = f"A run brings at most {ROWS_MAX} rows; these are {len(draft.rows)}. Upload them as a dataset."
        raise refused("ROWS_TOO_MANY", "eval_run.rows", message, rows=len(draft.rows))
    if draft.completions is not None and not 0 <= draft.completions.limit <= COMPLETIONS_MAX:
        message = f"limit is {draft.completions.limit}; it is 1 to {COMPLETIONS_MAX}, or 0 for {COMPLETIONS_DEFAULT}."
        raise refused("LIMIT_INVALID", "eval_run.completions.limit", message, limit=draft.completions.limit)
    if draft.examples is not None:
        check_examples(draft.examples, "eval_run.examples")


def _check_run(draft: RunDraft, eval_: Eval) -> None:
    checks.check_words(draft.display_name, "", draft.labels, draft.annotations, "eval_run")
    checks.check_text(draft.model, "eval_run.model", MODEL_CHARACTERS_MAX)
    checks.check_sampling(draft.sampling, "eval_run.sampling")
    checks.check_size(draft.limit, draft.concurrency)
    checks.check_tools(draft.tools, "eval_run.tools")
    if draft.prompt is not None:
        Prompt.from_spec(draft.prompt, field="eval_run.prompt")
        if eval_.item_schema is not None:
            check_paths(draft.prompt, eval_.item_schema, "eval_run.prompt")


def _check_own_rows(rows: Sequence[Item], eval_: Eval) -> None:
    """Inline rows are refused at once; rows of datasets and completions are errors of their items."""
    if eval_.item_schema is None:
        return
    schema = ItemSchema(eval_.item_schema)
    for index, row in enumerate(rows):
        fault = schema.fault(row)
        if fault:
            raise refused("ROW_INVALID", f"eval_run.rows[{index}]", f"Row {index + 1} breaks the item schema: {fault}")


def _graders(specs: Sequence[Spec]) -> list[Spec]:
    graders = parse_all(specs, path="eval.graders", nested=True)
    for index, grader in enumerate(graders):
        if grader.name == OVERALL:
            message = f"{OVERALL!r} names the result of all graders together."
            raise refused("GRADER_NAME_TAKEN", f"eval.graders[{index}].name", message, name=grader.name)
    return [grader.spec() for grader in graders]


def _rows_that_count(wanted: Split, dataset: DatasetFacts) -> tuple[Split, int]:
    """The split wanted; where nothing is said the test rows if there are any, else all."""
    _check_ready(dataset)
    split: Split = wanted or ("test" if dataset.rows_by_split.get("test") else "")
    rows = dataset.rows_by_split.get(split, 0) if split else dataset.rows
    if rows == 0:
        message = f"{dataset.name} has no {split or 'usable'} rows."
        raise WrongState("RUN_WITHOUT_ROWS", message, dataset_version=dataset.name, split=split)
    return split, rows


def _check_ready(dataset: DatasetFacts) -> None:
    if not dataset.is_ready:
        message = f"{dataset.name} is not ready; wait until it is."
        raise WrongState("DATASET_VERSION_NOT_READY", message, dataset_version=dataset.name)
