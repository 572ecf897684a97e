"""The training loop: validate, save, step, over and over; every step a pure function of the weights before it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from feinschliff.formats.objectives import Classify, Objective, Sft
from feinschliff.formats.recipe import Recipe
from feinschliff.formats.report import Metrics, Notice, Progress, Report
from feinschliff.kit.errors import Invalid
from feinschliff.kit.failpoints import fail
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import FlatBatch, flatten, hidden_states
from feinschliff.lm.noise import embedding_noise
from feinschliff.lm.randomness import draws
from feinschliff.lm.shared_prefixes import shared
from feinschliff.trainer import optim
from feinschliff.trainer.crew import Alone, Crew
from feinschliff.trainer.lanes import Lane
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.method import Method
from feinschliff.trainer.moving import at_rest
from feinschliff.trainer.order import Course, fixed_choice
from feinschliff.trainer.pace import Pace
from feinschliff.trainer.state import MetricsRow, TrainState
from feinschliff.trainer.stop import Stop, Stopped, Why
from feinschliff.trainer.table import Table
from feinschliff.trainer.tally import Tally, Tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PROOF_TOKENS = 16


def as_it_is(batch: FlatBatch) -> FlatBatch:
    """Nothing about the batch is known beforehand."""
    return batch


class MicroBatch(NamedTuple):
    """Rows of a table, by number, and what they are for a forward pass."""

    rows: list[int]
    batch: FlatBatch


@dataclass
class Training:
    """All that the loop works with; `parameters` are the learner's weights that train.

    `features` gives a batch what frozen layers make of it, where that is kept. `shares_prefixes`: tokens that rows of a
    batch begin with in common are computed once.
    """

    recipe: Recipe
    method: Method[Any]
    learner: Learner
    parameters: dict[str, nn.Parameter]
    lanes: Sequence[Lane]
    rows: Table
    validation_rows: Table
    stop: Stop
    post: Callable[[Report], None]
    save: Callable[[TrainState], None]
    tasks: Tasks = field(default_factory=Tasks)
    validation_tasks: Tasks = field(default_factory=Tasks)
    crew: Crew = field(default_factory=Alone)
    features: Callable[[FlatBatch], FlatBatch] = as_it_is
    shares_prefixes: bool = False
    pace: Pace = field(default_factory=Pace)

    @property
    def model(self) -> PreTrainedModel:
        return self.learner.transformer

    @property
    def course(self) -> Course:
        """Of the lane with most steps, which are the job's."""
        return max((lane.course for lane in self.lanes), key=lambda one: (one.steps_total, one.steps_per_epoch))

    @property
    def apart(self) -> bool:
        """Whether tasks learn on their own."""
        return len(self.lanes) > 1


class Turn(NamedTuple):
    """What a lane's part of a step came to, before its weights move."""

    lane: Lane
    tokens: float
    computed_tokens: float
    gradient_norm: float
    rate: float


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
    """One optimiser step of every lane that is due.

    Nothing moves before all gradients are there, so that a job which is stopped between two lanes can be saved.
    """
    started, total = time.monotonic(), t.course.steps_total
    t.model.train()
    tally = Tally(t.tasks, apart=t.apart)
    due = [(lane, made) for lane in t.lanes if (made := lane.due(state.step, total)) is not None]
    turns = [gather(t, lane, made, tally) for lane, made in due]
    totals = tally.totals(t.crew.sum(tally.numbers()))
    gradient_norm = max(turn.gradient_norm for turn in turns)
    for turn in turns:
        refuse_what_is_not_finite(totals.loss, turn.gradient_norm, state.step + 1)
    for turn in turns:
        turn.lane.move(t.parameters, turn.rate)

    tokens = sum(turn.tokens for turn in turns)
    t.pace.add(tokens=int(tokens), seconds=time.monotonic() - started)
    values = totals.values()
    more = {name: value for name, value in values.items() if "/" in name} if t.apart else {}
    more |= {f"tokens/{turn.lane.task}": turn.tokens for turn in turns if t.apart}
    row = MetricsRow(step=state.step + 1, train_loss=totals.loss, train_accuracy=totals.accuracy, train_more=more)
    state = state.with_step(int(tokens), row)
    values |= {
        "learning_rate": next(turn.rate for turn in turns if turn.lane.course is t.course),
        "gradient_norm": gradient_norm,
        "tokens": tokens,
        "computed_tokens": sum(turn.computed_tokens for turn in turns),
        "tokens_per_second": t.pace.tokens_per_second,
    }
    values |= {f"gradient_norm/{turn.lane.task}": turn.gradient_norm for turn in turns if t.apart}
    post_metrics(t, state, "train", values)
    return state


def sizes_of(batches: Iterable[FlatBatch]) -> list[float]:
    """Labels, tokens of the rows, and tokens that are computed."""
    sizes = np.asarray([(batch.labels, batch.tokens, batch.computed_tokens) for batch in batches], dtype=float)
    return [float(size) for size in sizes.reshape(-1, 3).sum(axis=0)]


def gather(t: Training, lane: Lane, step: int, tally: Tally) -> Turn:
    """The gradient of the rows that are due after `step` steps of a lane: the mean over all their labels, clipped."""
    optimisation = t.recipe.optimisation
    torch.manual_seed(step_seed(t.recipe.seed, step, place=t.crew.place))
    lane.lend(t.parameters)
    batches = list(micro_batches(t, t.crew.part_of(lane.course.rows_of(step), t.rows.tokens_of)))
    labels, tokens, computed = t.crew.sum(sizes_of(one.batch for one in batches))
    with at_rest(t.parameters, lane.moving.resting(step)), noisy(t, step):
        for rows, batch in t.crew.share(batches, t.stop):
            terms = t.method.loss(t.learner, t.features(batch.to(t.model.device)), t.recipe.objective)
            (terms.loss_sum / labels).backward()  # type: ignore[no-untyped-call]
            tally.add(terms, batch, rows)
    t.crew.sum_gradients(t.parameters.values())
    gradient_norm = t.crew.clip(t.parameters.values(), optimisation.max_gradient_norm)
    lane.put_gradients_aside(t.parameters)
    rate = optim.learning_rate(step, lane.course.steps_total, optimisation)
    return Turn(lane, tokens, computed, gradient_norm, rate)


@torch.no_grad()
def validate(t: Training, state: TrainState) -> TrainState:
    """Mean loss over all labels of the validation rows with the weights of `state`; see `Totals.loss`."""
    post_progress(t, state, "validating")
    t.model.train(False)
    settings, facts = t.recipe.validation, t.learner.facts
    objective, tally = without_smoothing(t.recipe.objective), Tally(t.validation_tasks, apart=t.apart)
    for lane in t.lanes:
        lane.lend(t.parameters)
        chosen = fixed_choice(len(lane.validation_rows), settings.rows_max, seed=t.recipe.seed)
        part = t.crew.part_of([lane.validation_rows[place] for place in chosen], t.validation_rows.tokens_of)
        for numbers, batch in t.crew.share(list(micro_batches(t, part, table=t.validation_rows)), t.stop):
            terms = t.method.loss(t.learner, t.features(batch.to(t.model.device)), objective)
            tally.add(terms, batch, numbers, t.method.observe(facts, batch, terms))
    totals = tally.totals(t.crew.sum(tally.numbers(observed=t.method.observed(facts))))
    more = t.method.metrics(facts, totals.observed, totals.loss)
    for task, loss in totals.losses().items() if t.apart else ():
        more |= {f"{name}/{task}": value for name, value in t.method.metrics(facts, totals.observed, loss).items()}
    standing = state.standing.after(totals.loss, step=state.step, minimum_gain=settings.minimum_gain)
    exhausted = standing.is_exhausted(settings)
    state = state.with_validation(totals, more, standing, stopped_early=exhausted)
    post_metrics(t, state, "validation", {**totals.values(), **more})
    if exhausted and state.step < t.course.steps_total:
        t.post(
            Notice(
                key="early_stop",
                message=f"Stopped early after step {state.step}: no gain in {settings.patience} validations; "
                f"the best was {standing.best_loss:.4f} after step {standing.best_step}.",
            )
        )
    return state


def without_smoothing(objective: Objective) -> Objective:
    """Validation measures what the weights make of the labels as they are."""
    if isinstance(objective, Sft | Classify) and objective.label_smoothing:
        return objective.model_copy(update={"label_smoothing": 0.0})
    return objective


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
    requested = t.crew.take_save_request(t.stop)
    settings = t.recipe.checkpointing
    due = t.course.is_due(state.step, every_steps=settings.every_steps, every_epochs=settings.every_epochs)
    is_best = settings.keep_best and state.standing.best_step == state.step
    return due or is_best or requested or state.stopped_early or state.step == t.course.steps_total


def shares_prefixes(t: Training) -> bool:
    """Whether the model makes the same of a token in every row that begins like that: no dropout, no noise of a row."""
    if t.recipe.optimisation.neftune_alpha:
        return False
    row = t.rows[0]
    batch = flatten([Encoded(row.token_ids[:PROOF_TOKENS], row.is_answer[:PROOF_TOKENS])]).to(t.model.device)
    return not draws(t.model, lambda: hidden_states(t.model, batch))


def micro_batches(t: Training, rows: Iterable[int], *, table: Table | None = None) -> Iterator[MicroBatch]:
    """Rows in order, as many at a time as `micro_batch_tokens` allows, and always one.

    Tokens that rows share count once, where they are computed once, and a little for each row that reads them.
    """
    source, limit = t.rows if table is None else table, t.recipe.optimisation.micro_batch_tokens
    numbers: list[int] = []
    group: list[Encoded] = []
    for number in rows:
        row = source[number]
        if group and cost_together(t, [*group, row]) > limit:
            yield MicroBatch(numbers, t.method.collate(group, share_prefixes=t.shares_prefixes))
            numbers, group = [], []
        numbers.append(number)
        group.append(row)
    if group:
        yield MicroBatch(numbers, t.method.collate(group, share_prefixes=t.shares_prefixes))


def cost_together(t: Training, rows: Sequence[Encoded]) -> int:
    """What a forward pass over the rows costs in tokens, see `Arrangement.cost`."""
    tokens = sum(len(row.token_ids) - 1 for row in rows)
    if not t.shares_prefixes or tokens <= t.recipe.optimisation.micro_batch_tokens:
        return tokens
    return shared([row.token_ids[:-1] for row in rows]).cost


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


def noisy(t: Training, step: int) -> AbstractContextManager[None]:
    """Noise on the embeddings of the step's rows, where the recipe wants it; the same in every process."""
    seed = step_seed(t.recipe.seed, step)
    return embedding_noise(t.model, t.recipe.optimisation.neftune_alpha, seed=seed)


def step_seed(seed: int, step: int, *, place: int = 0) -> int:
    """The seed of all randomness inside one step (dropout) in the process of that place."""
    return (seed * 1_000_003 + step + place * 2_147_483_659) % 2**63


def refuse_what_is_not_finite(loss: float, gradient_norm: float, step: int) -> None:
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    raise Invalid(
        "LOSS_NOT_FINITE",
        f"At step {step} the loss was {loss} and the gradient's norm {gradient_norm}; nothing can be learned further.",
        advice=["Lower the learning rate.", "Train with precision fp32."],
        step=step,
    )
