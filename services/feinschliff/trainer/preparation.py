"""What an attempt needs before its first step: the base, the data, and the weights that train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import nn

from feinschliff.artifacts.bases import BaseFiles, resolve
from feinschliff.artifacts.commit import fetch
from feinschliff.artifacts.store import Store
from feinschliff.formats.report import Metrics, Notice, Progress, Report
from feinschliff.formats.runfile import DataPart, Runfile
from feinschliff.kit.errors import WrongState
from feinschliff.kit.spans import span
from feinschliff.lm.adaptations import ADAPTATIONS, Adapt
from feinschliff.lm.adaptations.saved import refuse_another_kind
from feinschliff.lm.chat import Chat
from feinschliff.lm.flat import prove_rows_apart
from feinschliff.lm.load import LoadedBase, load_model, load_tokenizer, prepare, resolve_precision
from feinschliff.lm.logprobs import prove_plain_head
from feinschliff.trainer.checkpoint import Checkpoints, Saved
from feinschliff.trainer.data import Table, load_part
from feinschliff.trainer.method import METHODS, Method
from feinschliff.trainer.order import Source, refuse_nothing_to_learn
from feinschliff.trainer.progress import Outbox
from feinschliff.trainer.scratch import Scratch
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.state import Conditions
from feinschliff.trainer.stop import Stop
from feinschliff.trainer.tensorboard import Board


class Attempt:
    """The parts of one attempt that are there before any weight is loaded."""

    def __init__(
        self, runfile: Runfile, store: Store, settings: TrainerSettings, outbox: Outbox, stop: Stop, scratch: Scratch
    ) -> None:
        self.runfile = runfile
        self.recipe = runfile.recipe
        self.store = store
        self.settings = settings
        self.outbox = outbox
        self.stop = stop
        self.scratch = scratch
        self.checkpoints = Checkpoints(store, runfile.prefix, runfile.recipe.checkpointing)
        self.board = Board(store, runfile.prefix, runfile.attempt, scratch.new_folder())

    @property
    def adaptation(self) -> Adapt[Any, nn.Module]:
        return ADAPTATIONS[self.recipe.adaptation.kind]

    @property
    def method(self) -> Method:
        return METHODS[self.recipe.objective.kind]

    def post(self, report: Report) -> None:
        self.outbox.post(report)
        if isinstance(report, Metrics):
            self.board.add(report)


class Data(NamedTuple):
    rows: Table
    sources: list[Source]
    validation_rows: Table


@dataclass
class Loaded:
    """What the loop needs from outside."""

    conditions: Conditions
    base: LoadedBase
    chat: Chat
    data: Data


def load(a: Attempt, saved: Saved | None) -> Loaded:
    """Data first, so that a bad row is found before any weight is read; then the base."""
    files = resolve(a.runfile.base_model, a.store, a.settings.cache_folder, offline=a.settings.offline)
    conditions = saved.conditions if saved else None
    refuse_another_base(conditions.base_digest if conditions else a.runfile.base_digest, files)
    precision = cast(
        Literal["bf16", "fp32"], conditions.precision if conditions else resolve_precision(a.recipe.precision)
    )
    threads = a.settings.threads(conditions.threads if conditions else 0)
    use_threads(threads)
    folder = prepare(files, a.settings.cache_folder)
    a.stop.check()
    chat = Chat.of(load_tokenizer(folder), generation_stop_ids=stop_ids_of(folder))
    a.post(Progress(stage="encoding"))
    with span("encoding"):
        data = load_data(a, chat)
    a.post(Progress(stage="loading"))
    model = load_model(folder, precision=precision)
    prove_rows_apart(model)
    prove_plain_head(model)
    a.stop.check()
    return Loaded(
        Conditions(threads=threads, precision=precision, base_digest=files.digest),
        LoadedBase(files.uri, files.digest, folder, precision, model, chat.tokenizer),
        chat,
        data,
    )


def load_data(a: Attempt, chat: Chat) -> Data:
    rows, sources, validation_rows = Table(), [], Table()
    for part in a.runfile.train:
        first = len(rows)
        append_part(a, chat, rows, part)
        sources.append(Source(first, len(rows) - first, part.weight))
    refuse_nothing_to_learn(sources)
    for part in a.runfile.validation:
        append_part(a, chat, validation_rows, part)
    return Data(rows, sources, validation_rows)


def append_part(a: Attempt, chat: Chat, table: Table, part: DataPart) -> None:
    counts = load_part(
        table,
        a.store,
        part,
        lambda records: a.method.encode(chat, records, a.recipe.objective),
        a.recipe.optimisation,
        check=a.stop.check,
    )
    for what, count in (("cut to", counts.truncated), ("left out for being beyond", counts.dropped)):
        if count:
            limit = a.recipe.optimisation.max_row_tokens
            message = f"{count} rows of {part.dataset_version} were {what} {limit} tokens."
            key = f"notice/{part.dataset_version}/{','.join(part.splits)}/{what.split()[0]}"
            a.post(Notice(key=key, level="warning", message=message))


def adapted_model(a: Attempt, base: LoadedBase, saved: Saved | None) -> nn.Module:
    """The base with weights that train: saved ones, those of the version to continue, or fresh ones."""
    if saved is not None:
        return a.adaptation.resume(base.model, saved.folder)
    if a.runfile.initial_adapter_prefix:
        folder = a.scratch.new_folder()
        fetch(a.store, a.runfile.initial_adapter_prefix, folder)
        refuse_another_kind(folder, a.recipe.adaptation.kind)
        return a.adaptation.resume(base.model, folder)
    return a.adaptation.attach(base.model, a.recipe.adaptation, seed=a.recipe.seed)


def refuse_another_base(expected_digest: str, files: BaseFiles) -> None:
    if expected_digest and expected_digest != files.digest:
        raise WrongState(
            "BASE_MODEL_CHANGED",
            f"{files.uri} holds other files than when the job was made.",
            advice=["Name the base with a fixed revision and start a new job."],
            expected=expected_digest,
            found=files.digest,
        )


def stop_ids_of(folder: Path) -> list[int]:
    """Stop ids that the model's generation settings name."""
    from transformers import GenerationConfig

    if not (folder / "generation_config.json").is_file():
        return []
    ids = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def use_threads(threads: int) -> None:
    """Fixed threads and deterministic kernels: equal inputs give equal bits on a CPU."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
