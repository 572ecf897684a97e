"""What the measured runs amount to: a line for each number, and one for each goal."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.training.measured import Measured

STEPS_PER_EPOCH = 4
# Of the last steps, whose losses are held against each other.
LOSS_STEPS = 4

Line = Mapping[str, object]


class Goal(NamedTuple):
    """`metric` of ours over that of a peer, and its bound."""

    section: str
    metric: str
    peer: str
    sign: str
    bound: float


GOALS = (
    Goal("gsm8k", "real_tokens_per_second", "trl", ">=", 3.0),
    Goal("gsm8k", "real_tokens_per_second", "llamafactory", ">=", 2.0),
    Goal("gsm8k", "peak_rss_mib", "trl", "<=", 0.5),
    Goal("gsm8k", "loss", "trl", "~", 0.01),
    Goal("banking77", "real_tokens_per_second", "trl", ">=", 2.2),
)
LIMIT_SHARE = 0.6
QLORA_LOSS_MAX = 1.05
EPOCH_GOALS = {"last_layers": 2.5, "head": 10.0}


def lines(results: Path, section: str, precision: str) -> Iterator[Line]:
    """The lines of a section from all runs that are kept."""
    if section == "limit":
        return
    if section == "qlora":
        yield from _qlora(results, precision)
        return
    if section == "frozen":
        yield from _frozen(results, precision)
        return
    bench = f"training.sft_lora.{section}.{precision}"
    known = {}
    for subject in ("feinschliff", "trl", "llamafactory"):
        runs = _runs(results, f"{section}.{precision}.{subject}")
        if runs:
            known[subject] = numbers(runs)
            for metric, values in known[subject].items():
                yield _number(bench, subject, metric, values, runs=len(runs))
    for goal in GOALS:
        if goal.section == section and "feinschliff" in known and goal.peer in known:
            yield _held(bench, goal, known)
    path = results / f"limit.{precision}.json"
    if section == "gsm8k" and "feinschliff" in known and path.is_file():
        limit = json.loads(path.read_text("utf-8"))["tokens_per_second"]
        yield _number(bench, "matrix products alone", "real_tokens_per_second", [limit])
        share = statistics.median(known["feinschliff"]["real_tokens_per_second"]) / limit
        yield _goal(bench, f"share of the matrix products' limit >= {LIMIT_SHARE}", share, share >= LIMIT_SHARE)


def numbers(runs: Sequence[Measured]) -> dict[str, list[float]]:
    """Each metric's values, one a run; speeds one a step."""
    return {
        "real_tokens_per_second": [speed for run in runs for speed in run.tokens_per_second],
        "peak_rss_mib": [run.peak_rss_mib for run in runs],
        "loss": [statistics.mean(run.losses[-LOSS_STEPS:]) for run in runs],
        "startup_seconds": [run.startup_seconds for run in runs],
        "cpu_seconds": [run.cpu_seconds for run in runs],
        "load_average": [run.load_average for run in runs],
    }


def _frozen(results: Path, precision: str) -> Iterator[Line]:
    for what, bound in EPOCH_GOALS.items():
        kept = _runs(results, f"frozen.{precision}.{what}.kept")
        if not kept:
            continue
        bench, speeds = f"training.frozen.{what}.{precision}", kept[0].tokens_per_second
        # The first step is left out of the speeds.
        first, later = speeds[: STEPS_PER_EPOCH - 1], speeds[STEPS_PER_EPOCH - 1 :]
        yield _number(bench, "feinschliff", "real_tokens_per_second_first_epoch", first)
        yield _number(bench, "feinschliff", "real_tokens_per_second_later_epochs", later)
        for plain in _runs(results, f"frozen.{precision}.{what}.plain"):
            yield _number(bench, "feinschliff, nothing kept", "real_tokens_per_second", plain.tokens_per_second)
        ratio = statistics.median(later) / statistics.median(first)
        yield _goal(bench, f"later epochs / first epoch >= {bound}", ratio, ratio >= bound)


def _qlora(results: Path, precision: str) -> Iterator[Line]:
    bench, known = f"training.qlora.gsm8k.{precision}", {}
    for what in ("lora", "qlora"):
        runs = _runs(results, f"qlora.{precision}.{what}.")
        if not runs:
            return
        losses = [run.validation_loss for run in runs if run.validation_loss is not None]
        known[what] = {**numbers(runs), "validation_loss": losses}
        for metric, values in known[what].items():
            yield _number(bench, f"feinschliff, {what}", metric, values, runs=len(runs))
    ours, theirs = (
        {metric: statistics.median(values) for metric, values in known[what].items()} for what in ("qlora", "lora")
    )
    memory = ours["peak_rss_mib"] / theirs["peak_rss_mib"]
    yield _goal(bench, f"peak_rss_mib / lora {precision} < 1.0", memory, memory < 1.0)
    loss = ours["validation_loss"] / theirs["validation_loss"]
    yield _goal(bench, f"validation_loss / lora {precision} <= {QLORA_LOSS_MAX}", loss, loss <= QLORA_LOSS_MAX)


def _held(bench: str, goal: Goal, known: Mapping[str, Mapping[str, Sequence[float]]]) -> Line:
    ratio = statistics.median(known["feinschliff"][goal.metric]) / statistics.median(known[goal.peer][goal.metric])
    if goal.sign == "~":
        return _goal(
            bench, f"|{goal.metric} / {goal.peer} - 1| <= {goal.bound}", ratio - 1, abs(ratio - 1) <= goal.bound
        )
    holds = ratio >= goal.bound if goal.sign == ">=" else ratio <= goal.bound
    return _goal(bench, f"{goal.metric} / {goal.peer} {goal.sign} {goal.bound}", ratio, holds)


def _number(bench: str, subject: str, metric: str, values: Sequence[float], *, runs: int = 1) -> Line:
    spread = [round(min(values), 4), round(max(values), 4)]
    value = round(statistics.median(values), 4)
    return {"bench": bench, "subject": subject, "metric": metric, "value": value, "runs": runs, "spread": spread}


def _goal(bench: str, goal: str, value: float, holds: bool) -> Line:
    return {"bench": bench, "goal": goal, "value": round(value, 4), "holds": holds}


def _runs(results: Path, stem: str) -> list[Measured]:
    paths = sorted(path for path in results.glob(f"{stem}*.json"))
    return [Measured.model_validate_json(path.read_bytes()) for path in paths]
