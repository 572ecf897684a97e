"""GSM8K beside lm-eval: as many calls at once, in turn; and each as it comes, without a word about calls at once."""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from tests.bench.evaluation import lm_eval
from tests.bench.evaluation.lm_eval import LAST_NUMBER, Evaluated
from tests.bench.evaluation.served import BASE, MODEL, Measured, goal, measured, push, say, spread
from tests.support.platform import Platform

TOKENS = 256
SPEEDUP_MIN = 2.0
BENCH = "evaluation.gsm8k"
DIFFERENCES_MAX = 20
"""Told one by one."""


def measure(platform: Platform, folder: Path, rows: Sequence[tuple[str, str]], options: argparse.Namespace) -> None:
    version = push(platform, "gsm8k", rows)
    ours, theirs = [], []
    for number in range(options.rounds):
        ours.append(_ours(platform, version, options.at_once))
        theirs.append(_theirs(platform, options.peers, folder / str(number), rows, options.at_once))
    _report("feinschliff", [len(rows) / one.seconds for one in ours], options.at_once)
    _report("lm-eval", [len(rows) / one.seconds for one in theirs], options.at_once)
    few = rows[: options.default_rows]
    alone = _theirs(platform, options.peers, folder / "default", few, 1)
    default = _ours(platform, version, 0)
    _report("feinschliff as it comes", [len(rows) / default.seconds], 0)
    _report("lm-eval as it comes", [len(few) / alone.seconds], 1)
    same = statistics.median(one.seconds for one in theirs) / statistics.median(one.seconds for one in ours)
    goal(BENCH, f"items/s >= {SPEEDUP_MIN:g} x lm-eval, as many calls at once", same, same >= SPEEDUP_MIN)
    plain = (len(rows) / default.seconds) / (len(few) / alone.seconds)
    goal(BENCH, f"items/s >= {SPEEDUP_MIN:g} x lm-eval, each as it comes", plain, plain >= SPEEDUP_MIN)
    alike = _alike(ours[-1].items, theirs[-1])
    goal(BENCH, "same extracted answers", alike, alike == 1.0)


def _ours(platform: Platform, version: str, at_once: int) -> Measured:
    grader = pb.Grader(name="answer", numeric=pb.NumericGrader(reference="{{ item.completion }}"))
    sampling = common.SamplingParams(temperature=0, max_tokens=TOKENS)
    eval_ = pb.Eval(dataset_version=version, graders=[grader], sampling=sampling)
    return measured(platform, eval_, pb.EvalRun(model=BASE, concurrency=at_once))


def _theirs(platform: Platform, peers: Path, folder: Path, rows: Sequence[tuple[str, str]], at_once: int) -> Evaluated:
    asked = [{"question": question, "target": answer} for question, answer in rows]
    url = platform.gateway_url
    return lm_eval.word_problems(peers, folder, asked, url, MODEL, tokens=TOKENS, at_once=at_once)


def _report(subject: str, per_second: Sequence[float], at_once: int) -> None:
    say(bench=BENCH, subject=subject, metric="items_per_second", at_once=at_once or "default", **spread(per_second))


def _alike(items: Sequence[pb.OutputItem], theirs: Evaluated) -> float:
    """Share of rows where lm-eval and we read the same number, and find it right or wrong alike."""
    unlike = []
    for item, sample in zip(items, theirs.samples, strict=True):
        found = re.findall(LAST_NUMBER, item.sample)
        ours, their = _number(found[-1]) if found else None, _number(str(sample["filtered_resps"][0]))
        is_right = float(sample["exact_match"]) == 1.0
        if ours != their or is_right != item.passed:
            same_text = item.sample == sample["resps"][0][0]
            unlike.append(
                {"line": item.line, "ours": ours, "theirs": their, "passed": item.passed, "right": is_right}
                | {"same_text": same_text, "why": [grade.why for grade in item.grades]}
            )
    for one in unlike[:DIFFERENCES_MAX]:
        say(bench=BENCH, difference=one)
    return 1 - len(unlike) / len(items)


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
