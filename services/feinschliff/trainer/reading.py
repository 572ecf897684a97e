"""The rows of a job: read from its data sets, encoded, and told apart by source and task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import Classify, Objective
from feinschliff.formats.records import Record
from feinschliff.formats.report import Notice
from feinschliff.formats.runfile import DataPart
from feinschliff.lm.encoding import RowEncoder, survey
from feinschliff.lm.heads import read_facts
from feinschliff.trainer import kept_rows
from feinschliff.trainer.data import load_part, manifest_of, read_records
from feinschliff.trainer.order import Source, refuse_nothing_to_learn
from feinschliff.trainer.table import Table
from feinschliff.trainer.tally import Tasks

if TYPE_CHECKING:
    from feinschliff.trainer.preparation import Attempt


class Data(NamedTuple):
    """Rows, which sources they came from, and which tasks they belong to."""

    rows: Table
    sources: list[Source]
    tasks: Tasks
    validation_rows: Table
    validation_tasks: Tasks


class Start(NamedTuple):
    """Weights to go on from; `resumes` says whether they are this job's own."""

    folder: Path
    resumes: bool


def facts_of(a: Attempt, start: Start | None) -> HeadFacts | None:
    """What the job's head has to tell; None where the objective has none.

    A job that goes on keeps its facts. One that continues another version's head keeps that head's classes and unit, so
    that its weights go on meaning the same.
    """
    if start is not None and start.resumes:
        return read_facts(start.folder)
    before = read_facts(start.folder) if start is not None else None
    if before is not None and not _continues(a.recipe.objective, before):
        before = None
    return survey(_training_records(a), a.recipe.objective, before)


def load_data(a: Attempt, encoder: RowEncoder) -> Data:
    """
    Raises:
        Invalid: NOTHING_TO_LEARN, or a reason of `load_part`.
    """
    data = Data(Table(), [], Tasks(), Table(), Tasks())
    for part in a.runfile.train:
        first = len(data.rows)
        _append(a, encoder, data.rows, data.tasks, part)
        data.sources.append(Source(first, len(data.rows) - first, part.weight))
    for task, sources in sources_by_lane(a, data.sources).items():
        refuse_nothing_to_learn(sources, task)
    data.validation_tasks.names.extend(data.tasks.names)  # so that a task that validates alone is still told apart
    for part in a.runfile.validation:
        _append(a, encoder, data.validation_rows, data.validation_tasks, part)
    return data


def sources_by_lane(a: Attempt, sources: Sequence[Source]) -> dict[str, list[Source]]:
    """The sources of each task that has its own adapter, by its name; else all, by the empty name."""
    if not a.recipe.has_separate_adapters:
        return {"": list(sources)}
    of_task: dict[str, list[Source]] = {task: [] for task in a.tasks}
    for part, source in zip(a.runfile.train, sources, strict=True):
        of_task[part.task_name].append(source)
    return of_task


def _append(a: Attempt, encoder: RowEncoder, table: Table, tasks: Tasks, part: DataPart) -> None:
    first = len(table)
    settings, bytes_max = a.recipe.optimisation, a.settings.trainer_tokens_mib_max * 2**20
    counts = kept_rows.load(
        table,
        a.settings.tokens_folder,
        kept_rows.name_for(part, encoder, settings) if bytes_max else "",
        bytes_max=bytes_max,
        encode=lambda: load_part(table, a.store, part, encoder, settings, check=a.stop.check),
        prove=lambda: manifest_of(a.store, part),
    )
    tasks.append(part.task_name, len(table) - first)
    for what, count in (("cut to", counts.truncated), ("left out for being beyond", counts.dropped)):
        if count:
            limit = a.recipe.optimisation.max_row_tokens
            message = f"{count} rows of {part.dataset_version} were {what} {limit} tokens."
            key = f"notice/{part.dataset_version}/{','.join(part.splits)}/{what.split()[0]}"
            a.post(Notice(key=key, level="warning", message=message))


def _continues(objective: Objective, before: HeadFacts) -> bool:
    """Whether the head of a version is one that this objective trains on."""
    if not isinstance(objective, Classify):
        return objective.kind == before.kind
    same_classes = not objective.labels or objective.labels == before.classes
    return before.kind == "classify" and objective.multi_label == before.multi_label and same_classes


def _training_records(a: Attempt) -> Iterator[Record]:
    for part in a.runfile.train:
        a.stop.check()
        yield from read_records(a.store, part)
