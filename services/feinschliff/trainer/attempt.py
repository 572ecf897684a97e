"""One attempt from its runfile to a committed result, or to a state that the next attempt goes on from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from feinschliff.artifacts.commit import read_manifest
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.report import CheckpointReport, GoldenProbe, Notice, Progress
from feinschliff.formats.tasks import result_prefix_of
from feinschliff.kit.spans import span
from feinschliff.lm.chat import Encoded
from feinschliff.lm.recomputation import recompute_activations
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.trainer import lanes
from feinschliff.trainer.checkpoint import Saved
from feinschliff.trainer.features import Features, frozen_layers
from feinschliff.trainer.lane_starts import lanes_of
from feinschliff.trainer.lanes import Lane
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.loop import Training, micro_batches, shares_prefixes, train
from feinschliff.trainer.patience import patiently
from feinschliff.trainer.preparation import Attempt, Loaded, learner_of, load
from feinschliff.trainer.probes import golden_probes, golden_scores
from feinschliff.trainer.result import commit_result, commit_tasks, result_prefix
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
    training = assemble(a, loaded, learner, saved)
    state = TrainState()
    if saved is not None:
        state = saved.state
        number = a.runfile.attempt
        a.post(Notice(key=f"attempt/{number}/resumed", message=f"Attempt {number} goes on after step {saved.step}."))
        lanes.restore_states(training.lanes, training.parameters, saved.optimiser)
    for lane in training.lanes:
        a.crew.prepare(lane.optimiser, idle=lambda: pass_for_others(training))
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


def assemble(a: Attempt, loaded: Loaded, learner: Learner, saved: Saved | None) -> Training:
    parameters = learner.trained()
    training = Training(
        recipe=a.recipe,
        method=a.method,
        learner=learner,
        parameters=parameters,
        lanes=lanes_of(a, loaded, learner, parameters, saved),
        rows=loaded.data.rows,
        tasks=loaded.data.tasks,
        validation_rows=loaded.data.validation_rows,
        validation_tasks=loaded.data.validation_tasks,
        stop=a.stop,
        post=a.post,
        save=lambda state: save(a, loaded, training, state),
        crew=a.crew,
    )
    if a.recipe.optimisation.gradient_checkpointing:
        recompute_activations(learner.transformer)
    if layers := frozen_layers(learner, a.recipe, training.course):
        bytes_max = a.settings.trainer_features_mib_max * 2**20
        training.features = Features(training.model, layers, a.scratch.new_folder(), bytes_max=bytes_max)
        message = f"The lowest {layers} layers are frozen: what they make of a row is computed once and kept on disk."
        a.post(Notice(key="frozen_layers", message=message))
    else:
        training.shares_prefixes = shares_prefixes(training)
    return training


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
    optimiser = a.crew.gather(training.learner, lanes.state_tensors(training.lanes, training.parameters))
    if not a.crew.is_first:
        return

    def write() -> Manifest:
        with a.scratch.folder() as folder:
            lanes.save(training.lanes, training.parameters, training.learner, folder, base_model=loaded.base.uri)
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
        lanes.restore(training.lanes, training.parameters, training.learner, best.folder)
    training.model.train(False)
    probes = [probes_of(loaded, training, lane) for lane in training.lanes]
    a.crew.gather(training.learner, {})
    if not a.crew.is_first:
        a.crew.wait()
        return
    outcome = Outcome(a, loaded, training, state, best_step, seconds)
    with span("committing the result"):
        for lane, said in zip(training.lanes, probes, strict=True):
            patiently(partial(outcome.commit, lane, said), a.stop)
        if training.apart:
            prefixes = {lane.task: result_prefix_of(a.runfile.prefix, lane.task) for lane in training.lanes}
            patiently(lambda: commit_tasks(a.store, a.runfile.prefix, prefixes, state), a.stop)
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


def probes_of(loaded: Loaded, training: Training, lane: Lane) -> list[GoldenProbe]:
    """What the lane's weights say, to prompts of its rows too."""
    lane.lend(training.parameters)
    learner, numbers = training.learner, lane.course.rows
    rows = [loaded.data.rows[number] for number in numbers[:PROBED_ROWS]]
    if learner.head is not None:
        return golden_scores(learner, loaded.encoder, [row.token_ids[:-1] for row in rows])
    return golden_probes(learner.transformer, loaded.chat, [prompt_of(row) for row in rows])


@dataclass(frozen=True)
class Outcome:
    """What a run came to; `seconds` is what its last attempt took."""

    a: Attempt
    loaded: Loaded
    training: Training
    state: TrainState
    best_step: int
    seconds: float

    def commit(self, lane: Lane, probes: list[GoldenProbe]) -> Manifest:
        """The result of a lane; where it is committed already, nothing is left to do."""
        a, loaded, training = self.a, self.loaded, self.training
        state, best_step, energy, seconds = self.state, self.best_step, a.energy(), self.seconds
        prefix = result_prefix(a.runfile.prefix)
        if lane.task:
            prefix = result_prefix_of(a.runfile.prefix, lane.task)
            steps_after = partial(lane.steps_after, steps_total=training.course.steps_total)
            state, best_step = state.of_task(lane.task, steps_after), steps_after(best_step)
            share = state.trained_tokens / self.state.trained_tokens
            energy, seconds = energy and energy._replace(joules=energy.joules * share), seconds * share
        if lane.task and (there := read_manifest(a.store, prefix)) is not None:
            return there
        with a.scratch.folder() as folder:
            lane.lend(training.parameters)
            training.learner.save(folder, base_model=loaded.base.uri)
            return commit_result(
                a.store,
                prefix,
                folder,
                base=loaded.base,
                chat=loaded.chat,
                state=state,
                best_step=best_step,
                epochs=lane.course.epochs_after(state.step),
                probes=probes,
                files=files_of(a, training, self.state, self.best_step),
                seconds=seconds,
                energy=energy,
            )


def files_of(a: Attempt, training: Training, state: TrainState, step: int) -> dict[str, bytes]:
    """What the method tells of the weights of a step; nothing where they were not validated."""
    facts = training.learner.facts
    observed = state.observed_at(step, a.method.observed(facts))
    return {} if observed is None else a.method.files(facts, observed)


def prompt_of(row: Encoded) -> list[int]:
    """Tokens of a row before its first trained answer; the beginning of a row that is learned from its start."""
    answer_at = row.is_answer.index(True)
    return row.token_ids[: answer_at if answer_at > 1 else PROBED_TOKENS]
