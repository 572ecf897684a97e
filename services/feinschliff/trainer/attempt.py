"""One attempt from its runfile to a committed result, or to a state that the next attempt goes on from."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import nn

from feinschliff.artifacts.commit import read_manifest
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.report import CheckpointReport, GoldenProbe, Notice, Progress
from feinschliff.kit.spans import span
from feinschliff.lm.chat import Encoded
from feinschliff.lm.recomputation import recompute_activations
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.trainer import optim
from feinschliff.trainer.checkpoint import Saved
from feinschliff.trainer.features import Features, frozen_layers
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.loop import Training, micro_batches, shares_prefixes, train
from feinschliff.trainer.moving import Moving, moving_of
from feinschliff.trainer.order import Course
from feinschliff.trainer.patience import patiently
from feinschliff.trainer.preparation import Attempt, Loaded, learner_of, load
from feinschliff.trainer.probes import golden_probes, golden_scores
from feinschliff.trainer.result import commit_result, result_prefix
from feinschliff.trainer.state import TrainState

PROBED_ROWS = 2
PROBED_TOKENS = 16


def run(a: Attempt) -> None:
    """Train, or go on training, until the result is committed; where it is committed, nothing is left to do.

    Raises:
        Stopped: saved, to be resumed.
        Refusal: Invalid, NotFound and WrongState would come again with the same work.
    """
    started = time.monotonic()
    a.post(Progress(stage="loading"))
    folder = a.scratch.new_folder()
    saved = patiently(lambda: a.checkpoints.newest(folder), a.stop)
    a.crew.begin_at(saved.step if saved is not None else 0)
    if saved is not None:
        take_over_reports(a, saved)
    if patiently(lambda: read_manifest(a.store, result_prefix(a.runfile.prefix)), a.stop) is not None:
        return
    with span("loading"):
        loaded = load(a, saved)
        learner = a.crew.cut(learner_of(a, loaded), a.recipe)
    training = assemble(a, loaded, learner)
    state = TrainState()
    if saved is not None:
        state = saved.state
        number = a.runfile.attempt
        a.post(Notice(key=f"attempt/{number}/resumed", message=f"Attempt {number} goes on after step {saved.step}."))
        optim.restore(training.optimiser, training.parameters, saved.optimiser)
    a.crew.prepare(training.optimiser, idle=lambda: pass_for_others(training))
    try:
        with rows_apart(training.model), span("training"):
            state = train(training, state)
        commit(a, loaded, training, state, seconds=time.monotonic() - started)
    finally:
        a.board.upload()


def take_over_reports(a: Attempt, saved: Saved) -> None:
    """Reports that were under way when the checkpoint was written, and the checkpoint's own."""
    for posted in saved.reports:
        a.outbox.post(posted.report, time=posted.time)
    a.post(checkpoint_report(a, saved.state, saved.digest))


def assemble(a: Attempt, loaded: Loaded, learner: Learner) -> Training:
    parameters = learner.trained()
    course = Course.of(
        loaded.data.sources, a.recipe.optimisation, seed=a.recipe.seed, lengths=loaded.data.rows.lengths()
    )
    moving = moving_for(a, learner, parameters, course)
    if a.recipe.optimisation.gradient_checkpointing:
        recompute_activations(learner.transformer)
    training = Training(
        recipe=a.recipe,
        method=a.method,
        learner=learner,
        parameters=parameters,
        optimiser=optim.build(parameters, a.recipe.optimisation, moving.rate_shares),
        course=course,
        moving=moving,
        rows=loaded.data.rows,
        tasks=loaded.data.tasks,
        validation_rows=loaded.data.validation_rows,
        validation_tasks=loaded.data.validation_tasks,
        stop=a.stop,
        post=a.post,
        save=lambda state: save(a, loaded, training, state),
        crew=a.crew,
    )
    if layers := frozen_layers(learner, a.recipe, training.course):
        bytes_max = a.settings.trainer_features_mib_max * 2**20
        training.features = Features(training.model, layers, a.scratch.new_folder(), bytes_max=bytes_max)
        message = f"The lowest {layers} layers are frozen: what they make of a row is computed once and kept on disk."
        a.post(Notice(key="frozen_layers", message=message))
    else:
        training.shares_prefixes = shares_prefixes(training)
    return training


def moving_for(a: Attempt, learner: Learner, weights: Mapping[str, nn.Parameter], course: Course) -> Moving:
    """What the update schedule lets move; told once among the job's events."""
    moving = moving_of(
        a.recipe.update_schedule, learner.transformer, weights, epoch=course.steps_per_epoch, seed=a.recipe.seed
    )
    if message := moving.description(course.steps_total):
        a.post(Notice(key="update_schedule", message=message))
    return moving


def pass_for_others(t: Training) -> None:
    """A pass that counts for nothing: cut weights are put together only where all processes ask for them."""
    _, batch = next(micro_batches(t, [0]))
    terms = t.method.loss(t.learner, t.features(batch.to(t.model.device)), t.recipe.objective)
    if torch.is_grad_enabled():
        (0.0 * terms.loss_sum).backward()  # type: ignore[no-untyped-call]


def save(a: Attempt, loaded: Loaded, training: Training, state: TrainState) -> None:
    """Commit a checkpoint of `state`; one that is there already holds the same weights."""
    if patiently(lambda: a.checkpoints.has(state.step), a.stop):
        return
    a.post(Progress(stage="saving", step=state.step, steps_total=training.course.steps_total))
    optimiser = a.crew.gather(training.learner, optim.state_tensors(training.optimiser, training.parameters))
    if not a.crew.is_first:
        return

    def write() -> Manifest:
        with a.scratch.folder() as folder:
            training.learner.save(folder, base_model=loaded.base.uri)
            reports = a.outbox.unacknowledged()
            return a.checkpoints.commit(folder, state, loaded.conditions, optimiser, reports)

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


def commit(a: Attempt, loaded: Loaded, training: Training, state: TrainState, *, seconds: float) -> None:
    """The result: the best weights where validation names them, else the last ones."""
    if not (a.crew.is_first or a.recipe.sharing == "sharded"):
        a.crew.wait()
        return
    keep_best = a.recipe.checkpointing.keep_best and state.standing.best_step > 0
    best_step = state.standing.best_step if keep_best else state.step
    if best_step != state.step:
        best = a.checkpoints.fetch(best_step, a.scratch.new_folder())
        training.learner.restore(best.folder)
    training.model.train(False)
    probes = probes_of(loaded, training.learner)
    a.crew.gather(training.learner, {})
    if not a.crew.is_first:
        a.crew.wait()
        return

    def write() -> Manifest:
        with a.scratch.folder() as folder:
            training.learner.save(folder, base_model=loaded.base.uri)
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
                files=files_of(a, training, state, best_step),
                seconds=seconds,
                energy=a.energy(),
            )

    with span("committing the result"):
        patiently(write, a.stop)
    a.crew.wait()


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


def probes_of(loaded: Loaded, learner: Learner) -> list[GoldenProbe]:
    rows = [loaded.data.rows[row] for row in range(min(PROBED_ROWS, len(loaded.data.rows)))]
    if learner.head is not None:
        return golden_scores(learner, loaded.encoder, [row.token_ids[:-1] for row in rows])
    return golden_probes(learner.transformer, loaded.chat, [prompt_of(row) for row in rows])


def files_of(a: Attempt, training: Training, state: TrainState, step: int) -> dict[str, bytes]:
    """What the method tells of the weights of a step; nothing where they were not validated."""
    facts = training.learner.facts
    observed = state.observed_at(step, a.method.observed(facts))
    return {} if observed is None else a.method.files(facts, observed)


def prompt_of(row: Encoded) -> list[int]:
    """Tokens of a row before its first trained answer; the beginning of a row that is learned from its start."""
    answer_at = row.is_answer.index(True)
    return row.token_ids[: answer_at if answer_at > 1 else PROBED_TOKENS]
