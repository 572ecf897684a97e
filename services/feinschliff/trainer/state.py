"""All that a run knows besides its weights: written into every checkpoint, read by the attempt that goes on."""

from __future__ import annotations

import csv
import io

from pydantic import Field

from feinschliff.formats.base import Stored
from feinschliff.trainer.stopping import Standing


class MetricsRow(Stored):
    """One line of the result's metrics file; the validation columns belong to the weights after the step."""

    step: int
    train_loss: float
    train_accuracy: float
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None


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

    def with_step(self, tokens: int, row: MetricsRow) -> TrainState:
        """After one more step on so many input tokens."""
        return self.model_copy(
            update={
                "step": self.step + 1,
                "trained_tokens": self.trained_tokens + tokens,
                "history": (*self.history, row),
            }
        )

    def with_validation(self, loss: float, accuracy: float, standing: Standing, *, stopped_early: bool) -> TrainState:
        """After the weights of `step` were validated."""
        row = self.history[-1].model_copy(update={"valid_loss": loss, "valid_mean_token_accuracy": accuracy})
        return self.model_copy(
            update={
                "validated_step": self.step,
                "standing": standing,
                "stopped_early": stopped_early,
                "history": (*self.history[:-1], row),
            }
        )


class Conditions(Stored):
    """What must stay the same for a resumed run to give equal bits, and is taken over from the first attempt."""

    threads: int = Field(ge=1)
    precision: str
    base_digest: str


def metrics_csv(history: tuple[MetricsRow, ...]) -> bytes:
    """The history in the shape of OpenAI's result files; a number that was not measured is empty."""
    text = io.StringIO()
    columns = list(MetricsRow.model_fields)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.model_dump().items()} for row in history)
    return text.getvalue().encode()


def _cell(value: float | int | None) -> str:
    return "" if value is None else repr(value)
