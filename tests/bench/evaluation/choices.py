"""Multiple choice by log-likelihood beside lm-eval: letters after a question with its options, as MMLU asks."""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

from feinschliff.artifacts import bases
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.lm.load import prepare
from feinschliff.v1 import evaluation_pb2 as pb
from tests.bench.evaluation import lm_eval
from tests.bench.evaluation.lm_eval import LETTERS, Evaluated
from tests.bench.evaluation.served import BASE, MODEL, Measured, goal, measured, say, spread
from tests.support.platform import Platform

BENCH = "evaluation.choices"
SPEEDUP_MIN = 2.0
SEED = 7
PLAIN = (
    ("The opposite of hot is", (" cold", " banana", " seven"), 0),
    ("Two plus two is", (" a river", " four", " Monday"), 1),
    ("The sky on a clear day is", (" wooden", " quickly", " blue"), 2),
    ("Dogs and cats are", (" animals", " numbers", " verbs"), 0),
)


def measure(platform: Platform, folder: Path, rows: Sequence[tuple[str, str]], options: argparse.Namespace) -> None:
    base = bases.resolve(BASE, DirectoryStore(folder / "base"), options.home / "cache" / "bases", offline=True)
    tokenizer = prepare(base, options.home / "cache" / "bases")
    url, at_once = platform.gateway_url, options.at_once
    plain = [{"question": question, "choices": list(some), "answer": answer} for question, some, answer in PLAIN]
    found = lm_eval.choices(options.peers, folder / "plain", plain, url, MODEL, tokenizer=tokenizer, at_once=at_once)
    accuracy = float(found.results["local_choice"]["acc,none"])
    goal(BENCH, "plain questions answered by lm-eval", accuracy, accuracy >= 0.75)
    asked = _lettered(rows)
    ours, theirs = [], []
    for number in range(options.rounds):
        ours.append(_ours(platform, asked, at_once))
        place = folder / f"letters-{number}"
        theirs.append(lm_eval.choices(options.peers, place, asked, url, MODEL, tokenizer=tokenizer, at_once=at_once))
    for subject, all_seconds in (
        ("feinschliff", [one.seconds for one in ours]),
        ("lm-eval", [one.seconds for one in theirs]),
    ):
        per_second = spread([len(asked) / seconds for seconds in all_seconds])
        say(bench=BENCH, subject=subject, metric="items_per_second", at_once=at_once, **per_second)
    speedup = statistics.median(one.seconds for one in theirs) / statistics.median(one.seconds for one in ours)
    goal(BENCH, f"items/s >= {SPEEDUP_MIN:g} x lm-eval, as many calls at once", speedup, speedup >= SPEEDUP_MIN)
    same = _alike(ours[-1].items, theirs[-1])
    goal(BENCH, "same options chosen", same, same == 1.0)


def _lettered(rows: Sequence[tuple[str, str]]) -> list[dict[str, object]]:
    """Each question with its number and three of other questions, in an order of their own."""
    dice, lettered = random.Random(SEED), []
    numbers = sorted({number for _, number in rows})
    for question, number in rows:
        wrong = dice.sample([one for one in numbers if one != number], len(LETTERS) - 1)
        options = dice.sample([number, *wrong], len(LETTERS))
        told = "\n".join(f"{letter.strip()}. {one}" for letter, one in zip(LETTERS, options, strict=True))
        right = options.index(number)
        text = f"{question.partition(chr(10))[0]}\n{told}\nAnswer:"
        lettered.append({"question": text, "choices": list(LETTERS), "answer": right, "letter": LETTERS[right]})
    return lettered


def _ours(platform: Platform, rows: Sequence[dict[str, object]], at_once: int) -> Measured:
    """A row's options are asked for at the same time, so a fourth of the rows makes as many calls."""
    likelihood = pb.ChoiceLikelihood(model=BASE, prompt="{{ item.question }}")
    choice = pb.ChoiceGrader(reference="{{ item.letter }}", options=LETTERS, likelihood=likelihood)
    eval_ = pb.Eval(graders=[pb.Grader(name="choice", choice=choice)])
    eval_.item_schema.update({"type": "object"})
    run = pb.EvalRun(concurrency=max(at_once // len(LETTERS), 1), answer_path="item.letter")
    for row in rows:
        run.rows.add().update(row)  # type: ignore[arg-type]
    return measured(platform, eval_, run)


def _alike(items: Sequence[pb.OutputItem], theirs: Evaluated) -> float:
    equal = 0
    for item, sample in zip(items, theirs.samples, strict=True):
        likely = [float(one[0]) for one in sample["filtered_resps"]]
        their = LETTERS[max(range(len(likely)), key=likely.__getitem__)]
        if item.grades[0].label == their:
            equal += 1
        else:
            say(bench=BENCH, difference={"line": item.line, "ours": item.grades[0].label, "theirs": likely})
    return equal / len(items)
