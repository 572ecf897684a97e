"""Drafts by lookup: our engine with them and without, on answers that repeat their prompts and on ordinary ones."""

from __future__ import annotations

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
ANSWERS_EACH = 3  # one after the other

Ids = Callable[[str], Sequence[int]]


def measure(base: BaseFiles, ids: Ids, *, precision: str, home: Path, rounds: int, concurrency: Sequence[int]) -> None:
    """Both engines are asked the same in turn, other texts in each round; which of them is first alternates."""
    engines = [Alone(base, precision, home, lookup_tokens_max=tokens) for tokens in (0, LOOKUP_TOKENS)]
    for task, count in ((task, count) for task in ("repeat", "extract", "ordinary") for count in concurrency):
        known: list[list[Measured]] = [[], []]
        drafted, held = engines[1].drafted, engines[1].held
        for number in range(rounds):
            prompts = [ids(text) for text in _texts(task, ANSWERS_EACH * count, number, ids)]
            for which in (0, 1) if number % 2 else (1, 0):
                found = engines[which].ask_in_turn(prompts, at_once=count, tokens=repeating.ANSWER_TOKENS)
                known[which].append(found)
        bench = f"inference.lookup.{precision}.{task}.{count}"
        _tell(bench, known, REPEATED_SPEED_MIN if task == "repeat" and count <= REPEATED_AT_MAX else SPEED_MIN)
        say(bench=bench, metric="drafted_tokens", value=engines[1].drafted - drafted)
        say(bench=bench, metric="accepted_tokens", value=engines[1].held - held)
    for one in engines:
        one.engine.close()


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
