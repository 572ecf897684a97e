"""The training loop: validate, save, step, over and over; every step a pure function of the weights before it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from feinschliff.formats.recipe import Recipe
from feinschliff.formats.report import Metrics, Notice, Progress, Report
from feinschliff.kit.errors import Invalid
from feinschliff.kit.failpoints import fail
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import FlatBatch
from feinschliff.trainer import optim
from feinschliff.trainer.data import Table
from feinschliff.trainer.method import Method
from feinschliff.trainer.order import Course, fixed_choice
from feinschliff.trainer.pace import Pace
from feinschliff.trainer.state import MetricsRow, TrainState
from feinschliff.trainer.stop import Stop, Stopped, Why

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Training:
    """All that the loop works with; `model` holds the adapter, `parameters` are its weights that train."""

    recipe: Recipe
    method: Method
    model: PreTrainedModel
    parameters: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    course: Course
    rows: Table
    validation_rows: Table
    stop: Stop
    post: Callable[[Report], None]
    save: Callable[[TrainState], None]
    pace: Pace = field(default_factory=Pace)


def train(t: Training, state: TrainState) -> TrainState:
    """From `state` to the end of the recipe.

    Raises:
        Stopped: someone asked to stop; the last complete step is saved.
        Invalid: LOSS_NOT_FINITE.
    """
    while True:
        try:
            if validation_due(t, state):
                state = validate(t, state)
            if checkpoint_due(t, state):
                t.save(state)
            if state.step == t.course.steps_total or state.stopped_early:
                return state
            state = take_step(t, state)
        except Stopped as stopped:
            if state.step and stopped.why is not Why.SUPERSEDED:
                t.save(state)
            raise
        fail("step.after")


def take_step(t: Training, state: TrainState) -> TrainState:
    """One optimiser step on the rows that are due; the gradient is the mean over all labels of the step."""
    optimisation, started = t.recipe.optimisation, time.monotonic()
    torch.manual_seed(step_seed(t.recipe.seed, state.step))
    t.model.train()
    batches = list(micro_batches(t, t.course.rows_of(state.step)))
    labels = sum(batch.labels for batch in batches)
    loss, hits = 0.0, 0
    for batch in batches:
        t.stop.check()
        terms = t.method.loss(t.model, batch.to(t.model.device))
        (terms.loss_sum / labels).backward()  # type: ignore[no-untyped-call]
        loss += terms.loss_sum.item() / labels
        hits += terms.hits
    gradient_norm = optim.clip(t.parameters.values(), optimisation.max_gradient_norm)
    refuse_what_is_not_finite(loss, gradient_norm, state.step + 1)
    rate = optim.learning_rate(state.step, t.course.steps_total, optimisation)
    optim.set_learning_rate(t.optimiser, rate)
    t.optimiser.step()
    t.optimiser.zero_grad()

    tokens = sum(batch.tokens for batch in batches)
    t.pace.add(tokens=tokens, seconds=time.monotonic() - started)
    state = state.with_step(tokens, MetricsRow(step=state.step + 1, train_loss=loss, train_accuracy=hits / labels))
    values = {
        "loss": loss,
        "accuracy": hits / labels,
        "learning_rate": rate,
        "gradient_norm": gradient_norm,
        "tokens": float(tokens),
        "tokens_per_second": t.pace.tokens_per_second,
    }
    post_metrics(t, state, "train", values)
    return state


@torch.no_grad()
def validate(t: Training, state: TrainState) -> TrainState:
    """Mean loss over all labels of the validation rows, with the weights of `state`."""
    post_progress(t, state, "validating")
    t.model.train(False)
    settings = t.recipe.validation
    rows = fixed_choice(len(t.validation_rows), settings.rows_max, seed=t.recipe.seed)
    loss, hits, labels = 0.0, 0, 0
    for batch in micro_batches(t, rows, table=t.validation_rows):
        t.stop.check()
        terms = t.method.loss(t.model, batch.to(t.model.device))
        loss += terms.loss_sum.item()
        hits += terms.hits
        labels += terms.labels
    standing = state.standing.after(loss / labels, step=state.step, minimum_gain=settings.minimum_gain)
    exhausted = standing.is_exhausted(settings)
    state = state.with_validation(loss / labels, hits / labels, standing, stopped_early=exhausted)
    post_metrics(t, state, "validation", {"loss": loss / labels, "accuracy": hits / labels})
    if exhausted and state.step < t.course.steps_total:
        t.post(
            Notice(
                key="early_stop",
                message=f"Stopped early after step {state.step}: no gain in {settings.patience} validations; "
                f"the best was {standing.best_loss:.4f} after step {standing.best_step}.",
            )
        )
    return state


def validation_due(t: Training, state: TrainState) -> bool:
    if not len(t.validation_rows) or state.step in (0, state.validated_step):
        return False
    settings = t.recipe.validation
    due = t.course.is_due(state.step, every_steps=settings.every_steps, every_epochs=settings.every_epochs)
    return due or state.step == t.course.steps_total


def checkpoint_due(t: Training, state: TrainState) -> bool:
    """On schedule, at the end, on request, and wherever the best weights so far must not be lost."""
    if state.step == 0:
        return False
    requested = t.stop.take_save_request()
    settings = t.recipe.checkpointing
    due = t.course.is_due(state.step, every_steps=settings.every_steps, every_epochs=settings.every_epochs)
    is_best = settings.keep_best and state.standing.best_step == state.step
    return due or is_best or requested or state.stopped_early or state.step == t.course.steps_total


def micro_batches(t: Training, rows: Iterable[int], *, table: Table | None = None) -> Iterator[FlatBatch]:
    """Rows in order, as many at a time as `micro_batch_tokens` allows, and always one."""
    source, limit = t.rows if table is None else table, t.recipe.optimisation.micro_batch_tokens
    group: list[Encoded] = []
    tokens = 0
    for row in rows:
        if group and tokens + source.tokens_of(row) > limit:
            yield t.method.collate(group)
            group, tokens = [], 0
        group.append(source[row])
        tokens += source.tokens_of(row)
    if group:
        yield t.method.collate(group)


def post_metrics(
    t: Training, state: TrainState, phase: Literal["train", "validation"], values: dict[str, float]
) -> None:
    eta = t.pace.eta_seconds(t.course.steps_total - state.step)
    kind = "metrics" if phase == "train" else "evaluation"
    t.post(
        Metrics(
            key=f"{kind}/step/{state.step}",
            phase=phase,
            step=state.step,
            steps_total=t.course.steps_total,
            epoch=t.course.epochs_after(state.step),
            trained_tokens=state.trained_tokens,
            eta_seconds=eta,
            values=values,
        )
    )
    post_progress(t, state, "training")


def post_progress(t: Training, state: TrainState, stage: Literal["training", "validating", "saving"]) -> None:
    eta = t.pace.eta_seconds(t.course.steps_total - state.step)
    t.post(Progress(stage=stage, step=state.step, steps_total=t.course.steps_total, eta_seconds=eta))


def step_seed(seed: int, step: int) -> int:
    """The seed of all randomness inside one step (dropout)."""
    return (seed * 1_000_003 + step) % 2**63


def refuse_what_is_not_finite(loss: float, gradient_norm: float, step: int) -> None:
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    raise Invalid(
        "LOSS_NOT_FINITE",
        f"At step {step} the loss was {loss} and the gradient's norm {gradient_norm}; nothing can be learned further.",
        advice=["Lower the learning rate.", "Train with precision fp32."],
        step=step,
    )
