"""Speed, memory, loss and start-up of training: our trainer and its peers side by side, taking turns.

Prints one JSON object a line, then one for each goal. Every run is a process of its own on the embedded base
SmolLM2-135M-Instruct, batches of 8 rows, the same tokens and labels in the same order. What was measured lies below
`.build/bench/training`, so that parts can be measured one after another; `--short` takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from feinschliff.formats.recipe import Recipe
from tests.bench.environments import Failed
from tests.bench.training import goals, ours, peers
from tests.bench.training.measured import Measured, measured, say
from tests.bench.training.rows import is_made_up

PRECISIONS = ("bf16", "fp32")
SUBJECTS = ("feinschliff", *peers.PEERS)
SECTIONS = ("limit", "gsm8k", "banking77", "frozen", "qlora")
# What BANKING77 is for: short rows; the goal is held against TRL alone.
BANKING77_SUBJECTS = ("feinschliff", "trl")
FROZEN_EPOCHS = 3
QLORA_STEPS = 12
QLORA = {"kind": "qlora", "lora": {"rank": 16, "alpha": 32}}
LAST_LAYERS = {"adaptation": {"kind": "last_layers", "layers": 2, "train_head": False}}
HEAD = {"adaptation": {"kind": "last_layers", "layers": 0}, "objective": {"kind": "classify"}}


class Bench(NamedTuple):
    """Where things are, and how much is measured."""

    options: argparse.Namespace
    results: Path
    work: Path

    def rows(self, workload: str, count: int) -> tuple[Path, Mapping[str, Any]]:
        """The folder of a workload with that many rows, and what is known of it."""
        folder = self.work / f"{workload}-{count}"
        if not (folder / "about.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            command = [sys.executable, "-m", "tests.bench.training.prepare", "--workload", workload]
            command += ["--rows", str(count), "--data", str(self.options.data), "--home", str(self.options.home)]
            subprocess.run([*command, "--out", str(folder)], check=True)
        return folder, json.loads((folder / "about.json").read_text("utf-8"))

    def forget(self, stem: str) -> None:
        """Remove what was measured before, unless it is to be kept."""
        for path in [] if self.options.resume else self.results.glob(f"{stem}*.json"):
            path.unlink()

    def once(self, name: str, measure: Callable[[], Measured]) -> None:
        """Measure and keep it under `name`; with `--resume`, what is kept is not measured again."""
        path = self.results / f"{name}.json"
        if self.options.resume and path.is_file():
            return
        path.unlink(missing_ok=True)
        try:
            path.write_text(measure().model_dump_json(), "utf-8")
        except Failed as failure:
            say(bench=f"training.{name}", subject=name.split(".")[2], skipped=str(failure))


def main() -> None:
    options = _options()
    bench = Bench(options, options.out / "results", options.out / "work")
    for folder in (bench.results, bench.work):
        folder.mkdir(parents=True, exist_ok=True)
    for section in options.only:
        for precision in options.precision:
            {"limit": limit, "gsm8k": side_by_side, "banking77": side_by_side, "frozen": frozen, "qlora": qlora}[
                section
            ](bench, section, precision)
            for line in goals.lines(bench.results, section, precision):
                say(**line)


def side_by_side(bench: Bench, workload: str, precision: str) -> None:
    """LoRA on all linear layers, loss on answers only; subjects take turns in every round."""
    steps = bench.options.steps
    folder, about = bench.rows(workload, steps * 8)
    if is_made_up(workload, bench.options.data):
        say(bench=f"training.{workload}", note="rows are made up, with the lengths of the real ones")
    allowed = BANKING77_SUBJECTS if workload == "banking77" else SUBJECTS
    subjects = [subject for subject in bench.options.subjects if subject in allowed]
    for subject in subjects:
        bench.forget(f"{workload}.{precision}.{subject}.")
    for number in range(bench.options.rounds):
        for subject in subjects:
            name = f"{workload}.{precision}.{subject}.{number}"
            if subject == "feinschliff":
                recipe = ours.recipe_of(about["base"], precision, optimisation={"epochs": 1})
                bench.once(name, partial(_ours, bench, name, folder, about, recipe))
            else:
                bench.once(name, partial(_theirs, bench, peers.PEERS[subject], name, folder, about))


def _ours(bench: Bench, name: str, folder: Path, about: Mapping[str, Any], recipe: Recipe) -> Measured:
    seconds = bench.options.seconds_max
    ended, steps, begin = ours.train(
        name, recipe, about, folder / "store", folder, bench.options.home, seconds_max=seconds
    )
    return measured(ended, steps, first_begin=begin)


def _theirs(bench: Bench, peer: peers.Peer, name: str, folder: Path, about: Mapping[str, Any]) -> Measured:
    run = peers.Run(name, folder, name.split(".")[1], bench.options.steps, bench.options.seconds_max)
    ended, steps, begin = peers.train(peer, run, about, bench.options.peers)
    return measured(ended, steps, first_begin=begin)


def frozen(bench: Bench, section: str, precision: str) -> None:
    """Only the last two layers, and only a head: the first pass over the rows, and those after it."""
    for workload, what, changes in (("gsm8k", "last_layers", LAST_LAYERS), ("banking77", "head", HEAD)):
        folder, about = bench.rows(workload, goals.STEPS_PER_EPOCH * 8)
        # One pass over the rows keeps nothing and runs whole batches through all layers.
        for way, epochs in (("kept", FROZEN_EPOCHS), ("plain", 1)):
            name = f"frozen.{precision}.{what}.{way}"
            recipe = ours.recipe_of(about["base"], precision, optimisation={"epochs": epochs}, **changes)
            bench.once(name, partial(_ours, bench, name, folder, about, recipe))


def qlora(bench: Bench, section: str, precision: str) -> None:
    """LoRA over a base in 4 bits beside LoRA over the whole one, on long rows; in fp32 alone, where memory is short."""
    if precision != "fp32":
        return
    folder, about = bench.rows("gsm8k", QLORA_STEPS * 8)
    bench.forget("qlora.")
    for number in range(bench.options.rounds):
        for what, adaptation in (("lora", ours.LORA), ("qlora", QLORA)):
            name = f"qlora.{precision}.{what}.{number}"
            recipe = ours.recipe_of(about["base"], precision, adaptation=adaptation, optimisation={"epochs": 1})
            bench.once(name, partial(_validated, bench, name, folder, about, recipe))


def _validated(bench: Bench, name: str, folder: Path, about: Mapping[str, Any], recipe: Recipe) -> Measured:
    seconds, home = bench.options.seconds_max, bench.options.home
    ended, steps, begin = ours.train(
        name, recipe, about, folder / "store", folder, home, seconds_max=seconds, validated=True
    )
    loss = ours.validation_loss(folder / f"{name}.reports")
    return measured(ended, steps, first_begin=begin).model_copy(update={"validation_loss": loss})


def limit(bench: Bench, section: str, precision: str) -> None:
    """The matrix products alone, with logits at as many positions as GSM8K has labels."""
    _, about = bench.rows("gsm8k", bench.options.steps * 8)
    share = about["labels"] / sum(about["row_tokens"])
    command = [sys.executable, "-m", "tests.bench.training.limit", "--base", about["base"]]
    command += ["--precision", precision, "--label-share", f"{share:.3f}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (bench.results / f"limit.{precision}.json").write_text(done.stdout, "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.training.speed", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections, in this order")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--steps", type=int, default=8, help="of a run; the first one is left out of the speeds")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each subject")
    parser.add_argument("--short", action="store_true", help="5 steps and one round")
    parser.add_argument("--resume", action="store_true", help="keep what was measured before; else it is done again")
    parser.add_argument("--seconds-max", type=float, default=600.0, help="a longer run is ended and skipped")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="gsm8k_train.jsonl, banking77_train.csv"
    )
    parser.add_argument("--home", type=Path, default=Path(".feinschliff"), help="where the unpacked base is kept")
    parser.add_argument("--peers", type=Path, default=Path(".build/peers"), help="environments of the peers")
    parser.add_argument("--out", type=Path, default=Path(".build/bench/training"), help="what was measured")
    options = parser.parse_args()
    if options.short:
        options.steps, options.rounds = 5, 1
    for name in ("home", "out", "data", "peers"):
        setattr(options, name, getattr(options, name).absolute())
    print(f"cores={os.cpu_count()} load={os.getloadavg()[0]:.1f}", file=sys.stderr)
    return options


if __name__ == "__main__":
    main()
