"""All that a run knows besides its weights: written into every checkpoint, read by the attempt that goes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import date

import numpy as np
from pydantic import Field

from feinschliff.formats.base import Stored
from feinschliff.trainer.stopping import Standing
from feinschliff.trainer.tally import Totals


class MetricsRow(Stored):
    """One line of the result's metrics file; the validation columns belong to the weights after the step."""

    step: int
    train_loss: float
    train_accuracy: float | None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    valid_more: dict[str, float] = Field(default_factory=dict, description="By name; not in the file.")
    train_more: dict[str, float] = Field(
        default_factory=dict, description="By name, of tasks that learn apart; not in the file."
    )


class Observed(Stored):
    """What a method counted at a validation besides losses; numbers that are 0 are left out."""

    step: int
    numbers: tuple[tuple[int, float], ...]


class TrainState(Stored):
    """Where a run stands after `step` optimiser steps.

    The data cursor is `step` itself: the rows of a step follow from it and the seed, and so does every random number.
    """

    step: int = Field(0, ge=0)
    trained_tokens: int = Field(0, ge=0)
    validated_step: int = Field(-1, description="Last step whose weights were validated.")
    standing: Standing = Standing()
    stopped_early: bool = False
    history: tuple[MetricsRow, ...] = ()
    observed: tuple[Observed, ...] = Field((), description="At the best validation and at the last one.")

    def with_step(self, tokens: int, row: MetricsRow) -> TrainState:
        """After one more step on so many input tokens."""
        return self.model_copy(
            update={
                "step": self.step + 1,
                "trained_tokens": self.trained_tokens + tokens,
                "history": (*self.history, row),
            }
        )

    def with_validation(
        self, totals: Totals, more: dict[str, float], standing: Standing, *, stopped_early: bool
    ) -> TrainState:
        """After the weights of `step` were validated.

        Args:
            more: named numbers of the method.
        """
        by_task = {name: value for name, value in totals.values().items() if "/" in name}
        validated = {
            "valid_loss": totals.loss,
            "valid_mean_token_accuracy": totals.accuracy,
            "valid_more": {**more, **by_task},
        }
        kept = [one for one in self.observed if one.step == standing.best_step != self.step]
        if len(totals.observed):
            places = np.flatnonzero(totals.observed).tolist()
            numbers = tuple((place, float(totals.observed[place])) for place in places)
            kept.append(Observed(step=self.step, numbers=numbers))
        return self.model_copy(
            update={
                "validated_step": self.step,
                "standing": standing,
                "stopped_early": stopped_early,
                "history": (*self.history[:-1], self.history[-1].model_copy(update=validated)),
                "observed": tuple(kept),
            }
        )

    def of_task(self, task: str, steps_after: Callable[[int], int]) -> TrainState:
        """What a job of this task alone would know of itself, where tasks learn apart.

        Args:
            steps_after: how many of the task's steps are made after so many of this job's.
        """
        rows: dict[int, MetricsRow] = {}
        loss, accuracy, tokens = f"loss/{task}", f"accuracy/{task}", 0.0
        for row in self.history:
            step, train, valid = steps_after(row.step), row.train_more, row.valid_more
            if loss in train:
                rows[step] = MetricsRow(step=step, train_loss=train[loss], train_accuracy=train.get(accuracy))
                tokens += train[f"tokens/{task}"]
            if loss in valid:
                own = {
                    name.removesuffix(f"/{task}"): value for name, value in valid.items() if name.endswith(f"/{task}")
                }
                told = {"valid_loss": own.pop("loss"), "valid_mean_token_accuracy": own.pop("accuracy", None)}
                rows[step] = rows[step].model_copy(update={**told, "valid_more": own})
        return TrainState(
            step=steps_after(self.step),
            trained_tokens=int(tokens),
            stopped_early=self.stopped_early,
            history=tuple(rows.values()),
        )

    def observed_at(self, step: int, size: int) -> np.ndarray | None:
        """What was counted at the validation of these weights, so many numbers; None where nothing was."""
        found = next((one for one in self.observed if one.step == step), None)
        if found is None:
            return None
        numbers = np.zeros(size)
        for place, number in found.numbers:
            numbers[place] = number
        return numbers


class Conditions(Stored):
    """What must stay the same for a resumed run to give equal bits, and is taken over from the first attempt."""

    threads: int = Field(ge=1)
    precision: str
    base_digest: str
    day: date | None = Field(None, description="What templates that name the date are told; None: the moment.")


def metrics_csv(history: tuple[MetricsRow, ...]) -> bytes:
    """The history in the shape of OpenAI's result files; a number that was not measured is empty."""
    text = io.StringIO()
    columns = [name for name in MetricsRow.model_fields if not name.endswith("_more")]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(getattr(row, name)) for name in columns} for row in history)
    return text.getvalue().encode()


def _cell(value: float | int | None) -> str:
    return "" if value is None else repr(value)
