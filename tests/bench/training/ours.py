"""Our trainer as users run it: a process of its own with a runfile."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feinschliff.formats.recipe import Recipe
from feinschliff.formats.report import Metrics
from feinschliff.formats.runfile import DataPart, Runfile
from feinschliff.lm.allocator import ALLOCATOR
from feinschliff.trainer.progress import Posted
from tests.bench.training.measured import Ended, Step, run
from tests.bench.training.prepare import DATASET

JOB = "projects/bench/trainingJobs/{name}"
# Every subject: AdamW, 2e-4 from the first step to the last, rows in the order of the file.
OPTIMISATION = {
    "batch_size": 8,
    "learning_rate": 2e-4,
    "warmup_fraction": 0.0,
    "schedule": "constant",
    "order": "as_given",
    "max_row_tokens": 513,
}
LORA = {"kind": "lora", "rank": 16, "alpha": 32}


def recipe_of(base: str, precision: str, **changes: Any) -> Recipe:
    """The common recipe; `changes` replace whole parts of it, but `optimisation` adds to its numbers."""
    optimisation = {**OPTIMISATION, **changes.pop("optimisation", {})}
    given = {
        "base_model": f"file:{base}",
        "data": [{"dataset_version": DATASET}],
        "adaptation": LORA,
        "precision": precision,
        "checkpointing": {"every_steps": 100_000},
        **changes,
    }
    return Recipe.model_validate({**given, "optimisation": optimisation})


def train(
    name: str,
    recipe: Recipe,
    about: Mapping[str, Any],
    store: Path,
    work: Path,
    home: Path,
    *,
    seconds_max: float,
    validated: bool = False,
) -> tuple[Ended, list[Step], float]:
    """How the process ended, its steps, and when the first one began."""
    part = DataPart(dataset_version=DATASET, prefix=DATASET, sha256=about["digest"], splits=["train"])
    job = JOB.format(name=name)
    held_out = [part.model_copy(update={"splits": ["validation"]})] if validated else []
    runfile = Runfile(
        job=job, attempt=1, recipe=recipe, base_model=recipe.base_model, train=[part], validation=held_out, prefix=job
    )
    paths = {kind: work / f"{name}.{kind}" for kind in ("runfile", "reports", "log")}
    paths["reports"].unlink(missing_ok=True)
    paths["runfile"].write_text(runfile.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", "feinschliff.trainer", "--runfile", str(paths["runfile"])]
    command += ["--store", str(store), "--reports", str(paths["reports"])]
    # As the training service starts it.
    environment = {**ALLOCATOR, "FEINSCHLIFF_HOME": str(home), "FEINSCHLIFF_LOG_LEVEL": "WARNING"}
    ended = run(command, log=paths["log"], environment=environment, seconds_max=seconds_max)
    return ended, *_steps(paths["reports"])


def _steps(reports: Path) -> tuple[list[Step], float]:
    metrics = _metrics(reports)
    steps = [(time, report) for time, report in metrics if report.phase == "train"]
    end, first = steps[0]
    seconds = first.values["tokens"] / first.values["tokens_per_second"]
    return [Step(time, one.values["loss"], int(one.values["tokens"])) for time, one in steps], end - seconds


def validation_loss(reports: Path) -> float:
    """Of the last validation."""
    return [report.values["loss"] for _, report in _metrics(reports) if report.phase == "validation"][-1]


def _metrics(reports: Path) -> list[tuple[float, Metrics]]:
    posted = [Posted.model_validate_json(line) for line in reports.read_bytes().splitlines()]
    return [(one.time.timestamp(), one.report) for one in posted if isinstance(one.report, Metrics)]
