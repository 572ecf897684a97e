"""EleutherAI's lm-eval in an environment of its own, driving our gateway by HTTP with tasks defined here."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.bench.environments import Environment, Failed, python_of

ENVIRONMENT = Environment("lm-eval", ("lm-eval[api]==0.4.13",))
SECONDS_MAX = 7200
LAST_NUMBER = r"(-?[0-9][0-9,]*(?:\.[0-9]+)?)"
LETTERS = (" A", " B", " C", " D")
WORD_PROBLEM: Mapping[str, Any] = {
    "task": "local_gsm8k",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{target}}",
    "filter_list": [
        {
            "name": "last-number",
            "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": LAST_NUMBER},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "regexes_to_ignore": [",", r"\.0*$"]}
    ],
}
MULTIPLE_CHOICE: Mapping[str, Any] = {
    "task": "local_choice",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


class Evaluated(NamedTuple):
    """What lm-eval says: its samples in the order of the rows, its results, and how long it took by its own clock."""

    samples: Sequence[Mapping[str, Any]]
    results: Mapping[str, Any]
    seconds: float
    wall_seconds: float


def word_problems(
    peers: Path, folder: Path, rows: Sequence[Mapping[str, object]], url: str, model: str, *, tokens: int, at_once: int
) -> Evaluated:
    """Chats by `local-chat-completions`, greedy."""
    task = {**WORD_PROBLEM, "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": tokens}}
    where = f"model={model},base_url={url}/chat/completions,num_concurrent={at_once},max_retries=3"
    limits = f"tokenized_requests=False,max_length=8192,timeout={SECONDS_MAX}"
    arguments = ["--model", "local-chat-completions", "--model_args", f"{where},{limits}", "--apply_chat_template"]
    return _evaluate(peers, folder, task, rows, arguments)


def choices(
    peers: Path,
    folder: Path,
    rows: Sequence[Mapping[str, object]],
    url: str,
    model: str,
    *,
    tokenizer: Path,
    at_once: int,
) -> Evaluated:
    """Log-likelihoods of each choice by `local-completions`, which sends tokens and reads `echo` with `logprobs`."""
    where = f"model={model},base_url={url}/completions,num_concurrent={at_once},max_retries=3"
    limits = f"tokenizer={tokenizer},tokenizer_backend=huggingface,tokenized_requests=True,max_length=2048"
    return _evaluate(
        peers, folder, MULTIPLE_CHOICE, rows, ["--model", "local-completions", "--model_args", f"{where},{limits}"]
    )


def _evaluate(
    peers: Path, folder: Path, task: Mapping[str, Any], rows: Sequence[Mapping[str, object]], arguments: Sequence[str]
) -> Evaluated:
    """Raises Failed where lm-eval does not install here or ends with an error."""
    python = python_of(ENVIRONMENT, peers)
    place = folder / str(task["task"])
    place.mkdir(parents=True)
    data = place / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    (place / "task.yaml").write_text(yaml.safe_dump({**task, **files}, sort_keys=False), "utf-8")
    out = place / "out"
    words = ["--tasks", str(task["task"]), "--include_path", str(place), "--output_path", str(out), "--log_samples"]
    environment = os.environ | {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OPENAI_API_KEY": "any",
    }
    began = time.monotonic()
    command = [str(python), "-m", "lm_eval", *arguments, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, env=environment)
    wall_seconds = time.monotonic() - began
    if done.returncode:
        raise Failed(f"lm-eval failed: {done.stderr[-1500:]}")
    (results,) = out.rglob("results_*.json")
    (samples,) = out.rglob("samples_*.jsonl")
    said = json.loads(results.read_text("utf-8"))
    lines = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    seconds = float(said["total_evaluation_time_seconds"])
    return Evaluated(sorted(lines, key=lambda one: one["doc_id"]), said["results"], seconds, wall_seconds)
