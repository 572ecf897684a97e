"""Evals and runs as people ask for them, checked and filled in; all pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from feinschliff.evaluation import checks
from feinschliff.evaluation.prompts import DEFAULT_ANSWER, DEFAULT_REFERENCE, Prompt, PromptSpec
from feinschliff.evaluation.resources import PROJECT, DatasetFacts, Eval, Run, Sampling, Split
from feinschliff.evaluation.results import OVERALL
from feinschliff.graders import template
from feinschliff.graders.grader import parse_all
from feinschliff.graders.spec import Spec, refused
from feinschliff.kit import names
from feinschliff.kit.errors import WrongState

MODEL_CHARACTERS_MAX = 500


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


class RunDraft(NamedTuple):
    """A run as its maker wants it; what is empty comes from the eval."""

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
    )


def run_of(
    draft: RunDraft, eval_: Eval, dataset: DatasetFacts | None, new_id: str, request_id: str, now: datetime
) -> Run:
    """The run to store, queued, with the rows that count decided.

    Raises:
        Invalid: what prompts, paths, sampling and the limits refuse.
        WrongState: DATASET_VERSION_MISSING, DATASET_VERSION_NOT_READY, RUN_WITHOUT_ROWS.
    """
    if dataset is None:
        message = f"{eval_.name} names no dataset version, so the run must."
        raise WrongState("DATASET_VERSION_MISSING", message, eval=eval_.name)
    checks.check_words(draft.display_name, "", draft.labels, draft.annotations, "eval_run")
    checks.check_text(draft.model, "eval_run.model", MODEL_CHARACTERS_MAX)
    checks.check_sampling(draft.sampling, "eval_run.sampling")
    checks.check_size(draft.limit, draft.concurrency)
    if draft.prompt is not None:
        Prompt.from_spec(draft.prompt, field="eval_run.prompt")
    answer_path = draft.answer_path or DEFAULT_ANSWER
    template.parse_path(answer_path, field="eval_run.answer_path")
    split, rows = _rows_that_count(draft.split or eval_.split, dataset)
    run_id = names.check_id(draft.run_id, field="eval_run_id") if draft.run_id else new_id
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
        total=min(rows, draft.limit) if draft.limit else rows,
        created=now,
        lease_until=now,
        request_id=request_id,
    )


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
