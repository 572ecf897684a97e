"""One attempt from its runfile to a committed result, or to a state that the next attempt goes on from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping

from torch import nn

from feinschliff.artifacts.commit import read_manifest
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.report import CheckpointReport, Notice, Progress
from feinschliff.kit.spans import span
from feinschliff.lm.flat import rows_apart
from feinschliff.trainer import optim
from feinschliff.trainer.checkpoint import Saved
from feinschliff.trainer.data import Table
from feinschliff.trainer.loop import Training, train
from feinschliff.trainer.order import Course
from feinschliff.trainer.patience import patiently
from feinschliff.trainer.preparation import Attempt, Loaded, adapted_model, load
from feinschliff.trainer.probes import golden_probes
from feinschliff.trainer.result import commit_result, result_prefix
from feinschliff.trainer.state import TrainState

PROBED_ROWS = 2


def run(a: Attempt) -> None:
    """Train, or go on training, until the result is committed; where it is committed, nothing is left to do.

    Raises:
        Stopped: saved, to be resumed.
        Refusal: Invalid, NotFound and WrongState would come again with the same work.
    """
    started = time.monotonic()
    a.post(Progress(stage="loading"))
    saved = patiently(lambda: a.checkpoints.newest(a.scratch.new_folder()), a.stop)
    if saved is not None:
        take_over_reports(a, saved)
    if patiently(lambda: read_manifest(a.store, result_prefix(a.runfile.prefix)), a.stop) is not None:
        return
    with span("loading"):
        loaded = load(a, saved)
        model = adapted_model(a, loaded.base, saved)
    training = assemble(a, loaded, model)
    state = TrainState()
    if saved is not None:
        state = saved.state
        number = a.runfile.attempt
        a.post(Notice(key=f"attempt/{number}/resumed", message=f"Attempt {number} goes on after step {saved.step}."))
        optim.restore(training.optimiser, training.parameters, saved.optimiser)
    try:
        with rows_apart(training.model), span("training"):
            state = train(training, state)
        commit(a, loaded, model, training, state, seconds=time.monotonic() - started)
    finally:
        a.board.upload()


def take_over_reports(a: Attempt, saved: Saved) -> None:
    """Reports that were under way when the checkpoint was written, and the checkpoint's own."""
    for posted in saved.reports:
        a.outbox.post(posted.report, time=posted.time)
    a.post(checkpoint_report(a, saved.state, saved.digest))


def assemble(a: Attempt, loaded: Loaded, model: nn.Module) -> Training:
    parameters = a.adaptation.trained(model)
    training = Training(
        recipe=a.recipe,
        method=a.method,
        model=a.adaptation.transformer(model),
        parameters=parameters,
        optimiser=optim.adamw(parameters, a.recipe.optimisation),
        course=Course.of(
            loaded.data.sources, a.recipe.optimisation, seed=a.recipe.seed, lengths=loaded.data.rows.lengths()
        ),
        rows=loaded.data.rows,
        validation_rows=loaded.data.validation_rows,
        stop=a.stop,
        post=a.post,
        save=lambda state: save(a, loaded, model, training, state),
    )
    return training


def save(a: Attempt, loaded: Loaded, model: nn.Module, training: Training, state: TrainState) -> None:
    """Commit a checkpoint of `state`; one that is there already holds the same weights."""
    if patiently(lambda: a.checkpoints.has(state.step), a.stop):
        return
    a.post(Progress(stage="saving", step=state.step, steps_total=training.course.steps_total))
    optimiser = optim.state_tensors(training.optimiser, training.parameters)

    def write() -> Manifest:
        folder = a.scratch.new_folder()
        a.adaptation.save(model, folder, base_model=loaded.base.uri)
        reports = a.outbox.unacknowledged()
        manifest = a.checkpoints.commit(folder, state, loaded.conditions, optimiser, reports)
        shutil.rmtree(folder)
        return manifest

    begun = time.monotonic()
    with span("saving a checkpoint", step=state.step):
        manifest = patiently(write, a.stop)
    cost = {
        "seconds": time.monotonic() - begun,
        "bytes": float(sum(entry.size_bytes for entry in manifest.files.values())),
    }
    a.post(checkpoint_report(a, state, manifest.digest, cost))
    patiently(lambda: a.checkpoints.thin_out(state.standing.best_step), a.stop)
    a.board.upload()


def commit(
    a: Attempt, loaded: Loaded, model: nn.Module, training: Training, state: TrainState, *, seconds: float
) -> None:
    """The result: the best weights where validation names them, else the last ones."""
    keep_best = a.recipe.checkpointing.keep_best and state.standing.best_step > 0
    best_step = state.standing.best_step if keep_best else state.step
    if best_step != state.step:
        best = a.checkpoints.fetch(best_step, a.scratch.new_folder())
        a.adaptation.restore(model, best.folder)
    training.model.train(False)
    prompts = [prompt_of(loaded.data.rows, row) for row in range(min(PROBED_ROWS, len(loaded.data.rows)))]
    probes = golden_probes(training.model, loaded.chat, prompts)

    def write() -> Manifest:
        folder = a.scratch.new_folder()
        a.adaptation.save(model, folder, base_model=loaded.base.uri)
        return commit_result(
            a.store,
            a.runfile.prefix,
            folder,
            base=loaded.base,
            chat=loaded.chat,
            state=state,
            best_step=best_step,
            epochs=training.course.epochs_after(state.step),
            probes=probes,
            seconds=seconds,
        )

    with span("committing the result"):
        patiently(write, a.stop)


def checkpoint_report(
    a: Attempt, state: TrainState, digest: str, cost: Mapping[str, float] | None = None
) -> CheckpointReport:
    """Args: cost: seconds and bytes of writing it, where this attempt did."""
    last = state.history[-1]
    values = {"train_loss": last.train_loss, **(cost or {})}
    if last.valid_loss is not None:
        values["validation_loss"] = last.valid_loss
    return CheckpointReport(
        key=f"checkpoint/{state.step}",
        step=state.step,
        prefix=a.checkpoints.prefix_of(state.step),
        digest=digest,
        values=values,
        best=state.standing.best_step == state.step,
    )


def prompt_of(rows: Table, row: int) -> list[int]:
    """Tokens of a row before its first trained answer."""
    encoded = rows[row]
    return encoded.token_ids[: encoded.is_answer.index(True)]
