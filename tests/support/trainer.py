"""A trainer with its store, data and runfile on a test's disk, run in this process or in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from feinschliff.artifacts.commit import commit, read_manifest
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.recipe import DataSource, Recipe
from feinschliff.formats.records import Message, Record
from feinschliff.formats.runfile import DataPart, Runfile
from feinschliff.formats.tasks import result_prefix_of
from feinschliff.trainer.progress import Posted

JOB = "projects/default/trainingJobs/ftjob-1"
DATASET = "projects/default/datasets/file-1/versions/1"
COLOURS = ("order", "refund", "invoice", "delivery")
RUN_SECONDS_MAX = 240  # a run takes two; what is long beyond doubt is a trainer that hangs
PRELOAD = [
    "feinschliff.trainer.attempt",
    "feinschliff.trainer.link",
    "feinschliff.trainer.processes",
    "torch.distributed.launcher.api",
    "transformers.models.llama.modeling_llama",
    "peft",
]


def dataset_of(task: str) -> str:
    return f"projects/default/datasets/{task}/versions/1" if task else DATASET


def rows(count: int, *, first: int = 0) -> list[Record]:
    """Rows of different lengths with a pattern that a model can learn."""
    return [
        Record(
            messages=[
                Message(role="user", content=f"hello {'please ' * (k % 5)}help with my {COLOURS[k % 4]} {k}"),
                Message(role="assistant", content=COLOURS[k % 4]),
            ],
            line=k + 1,
        )
        for k in range(first, first + count)
    ]


def rows_for(objective: str, count: int, *, first: int = 0) -> list[Record]:
    """The same texts as an objective wants them: with an answer, alone, with a class, or with a number."""
    talks = rows(count, first=first)
    if objective == "sft":
        return talks
    made = []
    for one in talks:
        k = one.line - 1
        said: dict[str, object] = {"text": one.messages[0].content, "line": one.line}
        if objective == "classify":
            said["label"] = COLOURS[k % 4]
        if objective == "regress":
            said["value"] = 10.0 + 5 * (k % 4)
        made.append(Record.model_validate(said))
    return made


class Rows(NamedTuple):
    """A data set."""

    train: Sequence[Record]
    validation: Sequence[Record] = ()


class Workshop:
    """One job on one machine; attempts are numbered by whoever runs them."""

    def __init__(
        self,
        folder: Path,
        base: Path,
        *,
        train: Sequence[Record] = (),
        validation: Sequence[Record] = (),
        tasks: Mapping[str, Rows] | None = None,
    ) -> None:
        """Args: tasks: a data set of each, in place of the only one."""
        self.folder = folder
        self.store_folder = folder / "store"
        self.store_folder.mkdir(parents=True)
        self.store = DirectoryStore(self.store_folder)
        self.base = base
        self.tasks = tasks or {"": Rows(train, validation)}
        self.datasets = {task: self._put(task, given) for task, given in self.tasks.items()}
        self.recipe: dict[str, object] = {}
        self.environment: dict[str, str] = {}
        self.initial_adapter_prefix = ""
        self._started: list[ForkServerProcess] = []

    def _put(self, task: str, given: Rows) -> Manifest:
        validation = {"validation.jsonl": _lines(given.validation)} if given.validation else {}
        files = {"train.jsonl": _lines(given.train), **validation}
        return commit(self.store, dataset_of(task), files, {}, kind="dataset")

    def runfile(self, attempt: int = 1) -> Runfile:
        def part(dataset: str, split: str, source: DataSource) -> DataPart:
            name, sha256 = dataset_of(dataset), self.datasets[dataset].digest
            task, weight = source.task or dataset, source.weight
            return DataPart(dataset_version=name, prefix=name, sha256=sha256, splits=[split], task=task, weight=weight)

        recipe = Recipe.model_validate(
            {
                "base_model": f"file:{self.base}",
                "data": [{"dataset_version": dataset_of(task)} for task in self.tasks],
                "precision": "fp32",
                **self.recipe,
            }
        )
        sources = list(zip(self.tasks, recipe.data, strict=True))
        return Runfile(
            job=JOB,
            attempt=attempt,
            recipe=recipe,
            base_model=recipe.base_model,
            initial_adapter_prefix=self.initial_adapter_prefix,
            train=[part(name, "train", source) for name, source in sources],
            validation=[part(name, "validation", source) for name, source in sources if self.tasks[name].validation],
            prefix=JOB,
        )

    def start(
        self, *, failpoints: str = "", attempt: int = 1, environment: Mapping[str, str] | None = None
    ) -> ForkServerProcess:
        """The trainer in a process of its own."""
        path = self.folder / f"runfile-{attempt}.json"
        path.write_text(self.runfile(attempt).model_dump_json(), "utf-8")
        settings = {
            "FEINSCHLIFF_HOME": str(self.folder / "home"),
            "FEINSCHLIFF_FAILPOINTS": failpoints,
            "FEINSCHLIFF_TRAINER_THREADS": "1",
            "TMPDIR": str(self.folder),
            **self.environment,
            **(environment or {}),
        }
        arguments = ["--runfile", str(path), "--store", str(self.store_folder), "--reports", str(self.reports_path)]
        process = _forkserver().Process(target=_trainer, args=(arguments, settings, str(self.log_path)))
        process.start()
        self._started.append(process)
        return process

    def close(self) -> None:
        """For fixtures: end whatever a test that failed has left running."""
        for process in self._started:
            process.kill()
            process.join()

    def run(self, *, failpoints: str = "", attempt: int = 1, expect: int = 0) -> Manifest | None:
        """Run to the end; the result's manifest if one is committed."""
        process = self.start(failpoints=failpoints, attempt=attempt)
        process.join(timeout=RUN_SECONDS_MAX)
        if process.exitcode is None:
            process.kill()
        assert process.exitcode == expect, f"exit code {process.exitcode}, log: {self.log_path.read_text()[-4000:]}"
        return self.result

    @property
    def result(self) -> Manifest | None:
        return read_manifest(self.store, f"{JOB}/result")

    def result_of(self, task: str) -> Manifest | None:
        """Of a task that has an adapter of its own."""
        return read_manifest(self.store, result_prefix_of(JOB, task))

    @property
    def reports_path(self) -> Path:
        return self.folder / "reports.jsonl"

    @property
    def log_path(self) -> Path:
        return self.folder / "trainer.log"

    def reports(self) -> list[Posted]:
        if not self.reports_path.exists():
            return []
        return [Posted.model_validate_json(line) for line in self.reports_path.read_bytes().splitlines()]

    def reported_keys(self) -> list[str]:
        """Keys in the order in which a service would keep them: each once."""
        return list(dict.fromkeys(key for one in self.reports() if (key := getattr(one.report, "key", ""))))


def _lines(records: Sequence[Record]) -> bytes:
    return b"".join(record.to_json_line() for record in records)


_context: ForkServerContext | None = None


def _forkserver() -> ForkServerContext:
    """Processes that have torch imported already."""
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(PRELOAD)
    return _context


def _trainer(arguments: list[str], environment: dict[str, str], log: str) -> None:
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    import tempfile

    tempfile.tempdir = None
    from feinschliff.trainer.__main__ import main
    from tests.support import members

    members.fork_them()
    os._exit(main(arguments))
