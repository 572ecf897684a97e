"""Seconds from an attempt's start to its first step: cold, by a trainer that stood ready, by one with the base as well.

Prints one JSON object a line: each run, medians, and what a trainer that stands ready takes of memory and of time to
get there. Ways take turns. One step of 8 BANKING77 rows, LoRA, as `speed.py` trains; all results must have one digest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.artifacts.commit import read_manifest
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.report import Metrics
from feinschliff.formats.runfile import DataPart, Runfile
from feinschliff.lm.allocator import ALLOCATOR
from feinschliff.trainer.progress import Posted
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.spec import PYTHON, WorkloadSpec
from feinschliff.workloads.status import State
from feinschliff.workloads.warm import Kind, WarmWorkers
from tests.bench.training import ours
from tests.bench.training.measured import say
from tests.bench.training.prepare import DATASET
from tests.bench.training.speed import Bench

WAYS = {"cold": None, "warm": [], "warm with base": ["--base", DEFAULT_BASE]}
ROWS = 8
TRAINER = (PYTHON, "-m", "feinschliff.trainer")
MIB = 2**20


class Run(NamedTuple):
    """Seconds to the first step's begin and to the process's end; the result's digest."""

    first_step: float
    whole: float
    digest: str


class Stage(NamedTuple):
    runner: SubprocessRunner
    prepared_seconds: float
    rss_mib: float
    pss_mib: float


@contextmanager
def stage(way: str, env: dict[str, str], folder: Path) -> Iterator[Stage]:
    """A runner, and a trainer that stands ready where the way wants one."""
    more = WAYS[way]
    if more is None:
        yield Stage(SubprocessRunner(folder), 0.0, 0.0, 0.0)
        return
    workers = WarmWorkers(Kind(TRAINER, (PYTHON, "-m", "feinschliff.trainer.warm", *more), env=env), 1)
    runner = SubprocessRunner(folder, warm=workers)
    begun = time.monotonic()
    while not workers.ready:
        workers.turn()
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    time.sleep(1.0)  # until its threads sleep
    below = [one.memory_full_info() for one in psutil.Process().children(recursive=True)]
    yield Stage(runner, seconds, sum(one.rss for one in below) / MIB, sum(one.pss for one in below) / MIB)
    runner.close()


def measure(name: str, way: str, bench: Bench, precision: str) -> tuple[Run, Stage]:
    folder, about = bench.rows("banking77", ROWS)
    recipe = ours.recipe_of(about["base"], precision, base_model=DEFAULT_BASE, optimisation={"epochs": 1})
    part = DataPart(dataset_version=DATASET, prefix=DATASET, sha256=about["digest"], splits=["train"])
    job = ours.JOB.format(name=name)
    runfile = Runfile(job=job, attempt=1, recipe=recipe, base_model=recipe.base_model, train=[part], prefix=job)
    paths = {kind: folder / f"{name}.{kind}" for kind in ("runfile", "reports")}
    paths["reports"].unlink(missing_ok=True)
    paths["runfile"].write_text(runfile.model_dump_json(), "utf-8")
    store = DirectoryStore(folder / "store")
    for key in list(store.list(job)):
        store.delete(key)
    arguments = ("--runfile", paths["runfile"], "--store", folder / "store", "--reports", paths["reports"])
    env = {**ALLOCATOR, "FEINSCHLIFF_HOME": str(bench.options.home), "FEINSCHLIFF_LOG_LEVEL": "WARNING"}
    with stage(way, env, bench.work / "workloads") as ready:
        begun = time.time()
        ready.runner.start(WorkloadSpec(name, (*TRAINER, *map(str, arguments)), env=env, may_be_warm=True))
        while (seen := ready.runner.observe(name)).state is State.RUNNING:
            time.sleep(0.05)
        whole, said = time.time() - begun, ready.runner.logs(name).decode()
        ready.runner.forget(name)
    manifest = read_manifest(store, f"{job}/result")
    if seen.exit_code or manifest is None:
        raise SystemExit(f"{name} ended with {seen}: {said[-2000:]}")
    return Run(first_step(paths["reports"]) - begun, whole, manifest.files["adapter_model.safetensors"].sha256), ready


def first_step(reports: Path) -> float:
    """When it began, as a clock shows it."""
    for line in reports.read_bytes().splitlines():
        posted = Posted.model_validate_json(line)
        if isinstance(posted.report, Metrics) and posted.report.phase == "train":
            values, end = posted.report.values, datetime.timestamp(posted.time)
            return end - values["tokens"] / values["tokens_per_second"]
    raise SystemExit(f"no step in {reports}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.training.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--home", type=Path, default=Path(".feinschliff"))
    parser.add_argument("--out", type=Path, default=Path(".build/bench/training"))
    options = parser.parse_args()
    for name in ("home", "out", "data"):
        setattr(options, name, getattr(options, name).absolute())
    bench = Bench(options, options.out / "results", options.out / "work")
    bench.work.mkdir(parents=True, exist_ok=True)
    print(f"cores={os.cpu_count()} load={os.getloadavg()[0]:.1f}", file=sys.stderr)
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS:
            run, ready = measure(f"startup-{way.replace(' ', '-')}-{number}", way, bench, options.precision)
            runs[way].append(run)
            rest = {"prepared_seconds": ready.prepared_seconds, "rss_mib": ready.rss_mib, "pss_mib": ready.pss_mib}
            say(bench="training.startup", subject=way, load=os.getloadavg()[0], **run._asdict(), **rest)
    for way, found in runs.items():
        values = [run.first_step for run in found]
        about = {"value": statistics.median(values), "runs": len(values), "spread": [min(values), max(values)]}
        say(bench="training.startup", subject=way, metric="first_step_seconds", **about)
    digests = {run.digest for found in runs.values() for run in found}
    say(bench="training.startup", goal="one result of all ways", value=len(digests), holds=len(digests) == 1)


if __name__ == "__main__":
    main()
