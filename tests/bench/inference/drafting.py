"""Drafts by lookup: our engine with them and without, on answers that repeat their prompts and on ordinary ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from feinschliff.artifacts.bases import BaseFiles
from tests.bench.inference import repeating
from tests.bench.inference.measured import Measured, median, say
from tests.bench.inference.ours import LOOKUP_TOKENS, Alone
from tests.bench.inference.prompts import conversations

REPEATED_SPEED_MIN = 1.5  # where few are served at once: beyond, a step has no room for drafts
REPEATED_AT_MAX = 8
SPEED_MIN = 0.98  # whatever is asked
TASKS = ("repeat", "extract", "ordinary")
ANSWERS_EACH = 3  # one after the other

Ids = Callable[[str], Sequence[int]]


def measure(base: BaseFiles, ids: Ids, *, precision: str, home: Path, rounds: int, concurrency: Sequence[int]) -> None:
    """Both ways are asked the same in turn, other texts in each round; which of them is first alternates.

    One engine at a time: OpenMP lets threads sleep at once where two threads of a process share work out.
    """
    cells = [(task, count) for task in TASKS for count in concurrency]
    known: dict[tuple[str, int], list[list[Measured]]] = {cell: [[], []] for cell in cells}
    drafted: Counter[tuple[str, int]] = Counter()
    accepted: Counter[tuple[str, int]] = Counter()
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            alone = Alone(base, precision, home, lookup_tokens_max=LOOKUP_TOKENS if which else 0)
            for task, count in cells:
                before = alone.drafted, alone.accepted
                prompts = [ids(text) for text in _texts(task, ANSWERS_EACH * count, number, ids)]
                found = alone.ask_in_turn(prompts, at_once=count, tokens=repeating.ANSWER_TOKENS)
                known[task, count][which].append(found)
                drafted[task, count] += alone.drafted - before[0]
                accepted[task, count] += alone.accepted - before[1]
            alone.engine.close()
    for (task, count), runs in known.items():
        bench = f"inference.lookup.{precision}.{task}.{count}"
        _tell(bench, runs, REPEATED_SPEED_MIN if task == "repeat" and count <= REPEATED_AT_MAX else SPEED_MIN)
        say(bench=bench, metric="drafted_tokens", value=drafted[task, count])
        say(bench=bench, metric="accepted_tokens", value=accepted[task, count])


def _texts(task: str, count: int, number: int, ids: Ids) -> list[str]:
    if task == "ordinary":
        return conversations(count, lambda text: len(ids(text)), seed=number)
    ask = {"repeat": repeating.repeat, "extract": repeating.extract}[task]
    return [ask(1000 * number + place) for place in range(count)]


def _tell(bench: str, known: Sequence[Sequence[Measured]], least: float) -> None:
    speeds = [[run.tokens_per_second for run in runs] for runs in known]
    for subject, runs in zip(("without", "with"), speeds, strict=True):
        spread = [round(min(runs), 1), round(max(runs), 1)]
        say(bench=bench, subject=subject, metric="tokens_per_second", value=round(median(runs), 1), spread=spread)
    ratio = median([other / one for one, other in zip(*speeds, strict=True)])
    say(bench=bench, goal=f"tokens_per_second / without >= {least}", value=round(ratio, 3), holds=ratio >= least)
