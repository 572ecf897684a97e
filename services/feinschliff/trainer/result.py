"""What a finished job leaves behind: the weights, how it is spoken to, how it came about, and one manifest over it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import torch

from feinschliff.artifacts.commit import commit, sha256_of
from feinschliff.artifacts.store import Store
from feinschliff.formats.manifest import FileEntry, Manifest, content_digest
from feinschliff.formats.report import GoldenProbe, Result, TaskResults
from feinschliff.kit.failpoints import fail
from feinschliff.lm.chat import Chat
from feinschliff.trainer.checkpoint import METRICS_NAME, upload_folder
from feinschliff.trainer.energy import Energy
from feinschliff.trainer.state import MetricsRow, TrainState, metrics_csv

if TYPE_CHECKING:
    from feinschliff.lm.load import LoadedBase

MODEL_NAME = "config.json"
TEMPLATE_NAME = "chat_template.jinja"
CHAT_NAME = "chat.json"
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def result_prefix(job_prefix: str) -> str:
    return f"{job_prefix}/result"


def commit_result(
    store: Store,
    prefix: str,
    weights: Path,
    *,
    base: LoadedBase,
    chat: Chat,
    state: TrainState,
    best_step: int,
    epochs: float,
    probes: list[GoldenProbe],
    files: Mapping[str, bytes],
    seconds: float,
    energy: Energy | None,
) -> Manifest:
    """Make the job, or one of its tasks, a success: what comes before the manifest can be done again, and nothing after
    it needs to be.

    Args:
        prefix: `result_prefix` of the job, or `result_prefix_of` the task that has an adapter of its own.
        weights: folder with the adaptation's files of `best_step`; used up. A whole model gets its tokenizer, so that
            the result loads as a base does.
        files: what the method has to tell of them besides.
    """
    adapter_digest = content_digest(
        {path.name: FileEntry(sha256=sha256_of(path), size_bytes=path.stat().st_size) for path in weights.iterdir()}
    )
    if (weights / MODEL_NAME).is_file():
        base.tokenizer.save_pretrained(weights)
    (weights / TEMPLATE_NAME).write_text(chat.template, encoding="utf-8")
    (weights / CHAT_NAME).write_bytes(orjson.dumps(_chat_facts(base, chat), option=orjson.OPT_INDENT_2))
    for name, content in {METRICS_NAME: metrics_csv(state.history), **files}.items():
        (weights / name).write_bytes(content)
    meta = Result(
        base_model=base.uri,
        base_digest=base.digest,
        adapter_digest=adapter_digest,
        chat_template_hash=chat.template_hash,
        tokenizer_hash=chat.tokenizer_hash,
        stop_token_ids=list(chat.stop_token_ids),
        code_version=_version("feinschliff"),
        steps=state.step,
        epochs=epochs,
        trained_tokens=state.trained_tokens,
        best_step=best_step,
        stopped_early=state.stopped_early,
        metrics=final_metrics(state, best_step),
        golden_probes=probes,
        seconds=seconds,
        energy_joules=energy.joules if energy else None,
        energy_source=energy.source if energy else "",
        hardware=hardware(),
        packages={name: _version(name) for name in PACKAGES},
    )
    stored = upload_folder(store, prefix, weights)
    fail("result.before_commit")
    manifest = commit(store, prefix, stored, meta.model_dump(mode="json"), kind="result")
    fail("result.after_commit")
    return manifest


def commit_tasks(store: Store, job_prefix: str, prefixes: Mapping[str, str], state: TrainState) -> Manifest:
    """Make a job a success whose tasks have adapters of their own; all of their results are committed.

    Args:
        prefixes: where they are, by task.
    """
    meta = TaskResults(tasks=dict(prefixes)).model_dump(mode="json")
    fail("result.before_commit")
    files = {METRICS_NAME: metrics_csv(state.history)}
    manifest = commit(store, result_prefix(job_prefix), files, meta, kind="result")
    fail("result.after_commit")
    return manifest


def final_metrics(state: TrainState, best_step: int) -> dict[str, float]:
    """The last training numbers, and the validation numbers of the weights that were kept."""
    last = state.history[-1]
    metrics = {"train_loss": last.train_loss}
    if last.train_accuracy is not None:
        metrics["train_accuracy"] = last.train_accuracy
    kept: MetricsRow | None = next((row for row in state.history if row.step == best_step), None)
    if kept is not None and kept.valid_loss is not None:
        metrics["validation_loss"] = kept.valid_loss
        if kept.valid_mean_token_accuracy is not None:
            metrics["validation_accuracy"] = kept.valid_mean_token_accuracy
        metrics |= {f"validation_{name}": value for name, value in kept.valid_more.items()}
    return metrics


def hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {platform.machine()}"
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}"


def _chat_facts(base: LoadedBase, chat: Chat) -> dict[str, object]:
    return {
        "base_model": base.uri,
        "base_digest": base.digest,
        "chat_template_hash": chat.template_hash,
        "tokenizer_hash": chat.tokenizer_hash,
        "stop_token_ids": list(chat.stop_token_ids),
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
