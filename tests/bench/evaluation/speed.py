"""Evals beside lm-eval: the same rows, model and calls at once, taking turns; and what a run and hostile graders cost.

Prints one JSON object a line, then one for each goal. SmolLM2-135M-Instruct, greedy. `--rows`, `--at-once`, `--rounds`
and `--only` measure a part; `--ahead` goes before everything else on the machine (root, Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from itertools import islice
from pathlib import Path

from feinschliff.cli.eval_files import gsm8k
from tests.bench.evaluation import choices, others, overhead, sampling, word_problems
from tests.bench.evaluation.served import served

SERVED = ("gsm8k", "choices", "sampling")
SECTIONS = ("overhead", "others", *SERVED)


def main() -> None:
    options = _options()
    print(f"cores={os.cpu_count()} load={os.getloadavg()[0]:.1f}", file=sys.stderr)
    if "overhead" in options.only:
        overhead.measure()
    if "others" in options.only:
        others.measure(is_ahead=options.ahead)
    if not set(options.only) & set(SERVED):
        return
    with tempfile.TemporaryDirectory() as name, served(Path(name), options.home, is_ahead=options.ahead) as platform:
        folder = Path(name)
        rows = _rows(options.data, options.rows)
        if "sampling" in options.only:
            sampling.measure(platform, rows=10 * options.rows, at_once=2 * options.at_once, rounds=options.rounds)
        if "gsm8k" in options.only:
            word_problems.measure(platform, folder, rows, options)
        if "choices" in options.only:
            choices.measure(platform, folder, rows, options)


def _rows(folder: Path, count: int) -> list[tuple[str, str]]:
    """Questions with the number that is right."""
    with (folder / "gsm8k_test.jsonl").open(encoding="utf-8") as lines:
        return [gsm8k(json.loads(line)) for line in islice(lines, count)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).parents[3]
    parser.add_argument("--rows", type=int, default=200, help="of GSM8K; sampling takes ten times as many")
    parser.add_argument("--default-rows", type=int, default=40, help="for lm-eval with one call at once, its default")
    parser.add_argument("--at-once", type=int, default=16, help="sampling takes twice as many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--ahead", action="store_true")
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--peers", type=Path, default=root / ".build" / "peers")
    parser.add_argument("--home", type=Path, default=root / ".feinschliff")
    return parser.parse_args()


if __name__ == "__main__":
    main()
