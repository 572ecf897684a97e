"""What an attempt needs before its first step: the base, the data, and the weights that train."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from feinschliff.artifacts.bases import BaseFiles, resolve
from feinschliff.artifacts.commit import fetch
from feinschliff.artifacts.store import Store
from feinschliff.formats.adaptations import LastLayers
from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import HEADED, Sft
from feinschliff.formats.report import Metrics, Progress, Report
from feinschliff.formats.runfile import Runfile
from feinschliff.formats.tasks import refuse_unsuited
from feinschliff.kit.errors import WrongState
from feinschliff.kit.spans import span
from feinschliff.lm import heads
from feinschliff.lm.adaptations import ADAPTATIONS, Adapt, frozen
from feinschliff.lm.adaptations.saved import read_settings, refuse_another_kind
from feinschliff.lm.chat import Chat
from feinschliff.lm.encoding import RowEncoder
from feinschliff.lm.flat import prove_rows_apart
from feinschliff.lm.fused import use_fused_layers
from feinschliff.lm.load import LoadedBase, load_model, load_tokenizer, prepare, resolve_precision
from feinschliff.lm.logprobs import prove_plain_head
from feinschliff.lm.quantised import wanted_by
from feinschliff.trainer.checkpoint import Checkpoints, Saved
from feinschliff.trainer.crew import Alone, Crew
from feinschliff.trainer.energy import Energy, Meter
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.method import METHODS, Method
from feinschliff.trainer.progress import Outbox
from feinschliff.trainer.reading import Data, Start, facts_of, load_data
from feinschliff.trainer.scratch import Scratch
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.state import Conditions
from feinschliff.trainer.stop import Stop
from feinschliff.trainer.tensorboard import Board
from feinschliff.trainer.trackers import Trackers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class Attempt:
    """The parts of one attempt that are there before any weight is loaded."""

    def __init__(
        self,
        runfile: Runfile,
        store: Store,
        settings: TrainerSettings,
        outbox: Outbox,
        stop: Stop,
        scratch: Scratch,
        crew: Crew | None = None,
        meter: Meter | None = None,
        bases: list[LoadedBase] | None = None,
    ) -> None:
        """Args: bases: read already, at most one; whoever looks at it takes it out, so that it is gone if unused."""
        self.runfile = runfile
        self.recipe = runfile.recipe
        self.store = store
        self.settings = settings
        self.outbox = outbox
        self.stop = stop
        self.scratch = scratch
        self.crew: Crew = crew or Alone()
        self.meter = meter or Meter(core_watts=settings.trainer_core_watts)
        self.bases = [] if bases is None else bases
        self.checkpoints = Checkpoints(store, runfile.prefix, runfile.recipe.checkpointing)
        self.board = Board(store, runfile.prefix, runfile.attempt, scratch.new_folder())
        self.trackers = Trackers(runfile, settings, store, outbox.post, scratch.new_folder)

    @property
    def has_head(self) -> bool:
        """Whether a head of its own takes the place of the vocabulary."""
        return self.recipe.objective.kind in HEADED

    def energy(self) -> Energy | None:
        """What the job has used with all its attempts, until now."""
        used = self.meter.read()
        return None if used is None else used._replace(joules=used.joules + self.runfile.energy_before)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the data."""
        return list(dict.fromkeys(part.task_name for part in self.runfile.train))

    @property
    def adaptation(self) -> Adapt[Any, Any]:
        if self.has_head and isinstance(self.recipe.adaptation, LastLayers) and not self.recipe.adaptation.layers:
            return frozen
        return ADAPTATIONS[self.recipe.adaptation.kind]

    @property
    def method(self) -> Method[Any]:
        return METHODS[self.recipe.objective.kind]

    def post(self, report: Report) -> None:
        """For the job's owner; of several processes, the first speaks."""
        if not self.crew.is_first:
            return
        self.outbox.post(report)
        if isinstance(report, Metrics):
            self.board.add(report)
            self.trackers.add(report)


@dataclass
class Loaded:
    """What the loop needs from outside; `start` is where weights to go on from lie."""

    conditions: Conditions
    base: LoadedBase
    encoder: RowEncoder
    data: Data
    start: Start | None = None

    @property
    def chat(self) -> Chat:
        return self.encoder.chat


def load(a: Attempt, saved: Saved | None) -> Loaded:
    """Data first, so that a bad row is found before any weight is read; then the base."""
    refuse_unsuited(a.recipe)
    files = resolve(a.runfile.base_model, a.store, a.settings.cache_folder, offline=a.settings.offline)
    conditions = saved.conditions if saved else None
    refuse_another_base(conditions.base_digest if conditions else a.runfile.base_digest, files)
    precision = cast(
        Literal["bf16", "fp32"], conditions.precision if conditions else resolve_precision(a.recipe.precision)
    )
    threads = a.settings.threads(conditions.threads if conditions else 0, processes=a.crew.processes_here)
    use_threads(threads)
    folder = prepare(files, a.settings.cache_folder)
    a.stop.check()
    ready = base_in_memory(a, files, folder)
    tokenizer = load_tokenizer(folder) if ready is None else ready.tokenizer
    quantisation = wanted_by(a.recipe.adaptation)
    if ready is not None and (quantisation is not None or ready.precision != precision):
        logger.info("its weights are in memory in another form, and are read again")
        ready = None
    template_needed = isinstance(a.recipe.objective, Sft)
    day = conditions.day if conditions else day_of(a.crew)
    chat = Chat.of(tokenizer, generation_stop_ids=stop_ids_of(folder), template_needed=template_needed, day=day)
    start = start_of(a, saved)
    a.post(Progress(stage="encoding"))
    with span("encoding"):
        encoder = RowEncoder(chat, a.recipe.objective, facts_of(a, start))
        data = load_data(a, encoder)
    a.post(Progress(stage="loading"))
    if ready is None:
        model = load_model(folder, precision=precision, quantisation=quantisation)
        fit_for_training(model)
    else:
        model = ready.model
    a.stop.check()
    return Loaded(
        Conditions(threads=threads, precision=precision, base_digest=files.digest, day=day),
        LoadedBase(files.uri, files.digest, folder, precision, model, tokenizer),
        encoder,
        data,
        start,
    )


def base_in_memory(a: Attempt, files: BaseFiles, folder: Path) -> LoadedBase | None:
    """The base that this process read before it had any work, where it is the job's; another one is let go."""
    if not a.bases:
        return None
    base = a.bases.pop()
    is_wanted = (base.digest, base.folder) == (files.digest, folder)
    logger.info(
        "the base is in memory already" if is_wanted else "another base was in memory", extra={"base": base.uri}
    )
    return base if is_wanted else None


def fit_for_training(model: PreTrainedModel) -> None:
    """Let it compute as it does in training; raises a Refusal where it is none that can be trained so."""
    use_fused_layers(model)
    prove_rows_apart(model)
    prove_plain_head(model)


def day_of(crew: Crew) -> date:
    """Today, as the first process has it: all have to encode the same tokens."""
    (number,) = crew.sum([date.today().toordinal() if crew.is_first else 0])
    return date.fromordinal(int(number))


def start_of(a: Attempt, saved: Saved | None) -> Start | None:
    """Weights to go on from: the job's own, or those of the version that it continues; None begins afresh."""
    if saved is not None:
        own = f"tasks/{a.tasks[0]}" if a.recipe.has_separate_adapters else ""
        return Start(saved.folder / own, resumes=True)
    if not a.runfile.initial_adapter_prefix:
        return None
    folder = a.scratch.new_folder()
    fetch(a.store, a.runfile.initial_adapter_prefix, folder)
    refuse_another_kind(folder, a.recipe.adaptation.kind)
    if a.has_head and isinstance(a.recipe.adaptation, LastLayers):
        refuse_what_a_head_replaces(folder, a.recipe.adaptation)
    return Start(folder, resumes=False)


def refuse_what_a_head_replaces(folder: Path, settings: LastLayers) -> None:
    """Last layers below a head of their own go on from such layers alone: a version's own norm would be lost.

    Raises:
        WrongState: ADAPTATION_DIFFERS.
    """
    before = read_settings(folder, LastLayers)
    alone = before.layers == 0 and heads.read_facts(folder) is not None
    if alone if settings.layers == 0 else before.layers > 0 and not before.train_head:
        return
    message = "The version to continue from also trained the norm or the head of the base, which this objective leaves."
    raise WrongState(
        "ADAPTATION_DIFFERS",
        message,
        advice=["Start from the base model, or continue a version that was trained with the same objective."],
        found=f"last_layers of {before.layers}",
        wanted=f"last_layers of {settings.layers} below a head",
    )


def learner_of(a: Attempt, loaded: Loaded) -> Learner:
    """The base with weights that train: saved ones, those of the version to continue, or fresh ones.

    Where every task has its own, these are those of the first; `lanes_of` has all.
    """
    model, facts = loaded.base.model, loaded.encoder.facts
    adapted = _adapted(a, model, loaded.start)
    if facts is None:
        return Learner(a.adaptation, adapted)
    leave_vocabulary_alone(a.adaptation.transformer(adapted))
    head = None if loaded.start is None else _saved_head(loaded.start.folder, facts)
    if head is None:
        head = heads.fresh(facts, model.config.get_text_config().hidden_size, seed=a.recipe.seed)
    return Learner(a.adaptation, adapted, head.to(model.device))


def leave_vocabulary_alone(model: PreTrainedModel) -> None:
    """Beside a head of its own the projection to the vocabulary has no part in the loss; embeddings tied to it have."""
    projection = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    inside = set(model.base_model.parameters())
    for weight in projection.parameters() if isinstance(projection, nn.Module) else ():
        if weight not in inside:
            weight.requires_grad_(False)


def _adapted(a: Attempt, model: PreTrainedModel, start: Start | None) -> nn.Module:
    adaptation: Adapt[Any, nn.Module] = a.adaptation
    if start is not None:
        return adaptation.resume(model, start.folder)
    settings = a.recipe.adaptation
    if a.has_head and isinstance(settings, LastLayers):
        settings = settings.model_copy(update={"train_head": False})  # which is the vocabulary's, and its norm
    return adaptation.attach(model, settings, seed=a.recipe.seed)


def _saved_head(folder: Path, facts: HeadFacts) -> heads.Head | None:
    """The folder's head with the job's facts; None where its outputs mean something else."""
    before = heads.read_facts(folder)
    same = ("kind", "classes", "multi_label", "mean", "deviation")
    if before is None or any(getattr(before, name) != getattr(facts, name) for name in same):
        return None
    return heads.Head(facts, heads.load(folder).weight_CH.detach())


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
