"""What is learned: one class for each objective of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from feinschliff.formats.base import Stored

CLASSES_MAX = 10_000


class Sft(Stored):
    """Supervised fine-tuning: cross entropy on assistant turns, nothing else."""

    kind: Literal["sft"] = "sft"
    loss_on: Literal["all_assistant_turns", "last_assistant_turn"] = "all_assistant_turns"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label spread over the vocabulary.")


class Pretrain(Stored):
    """Next-token loss on plain text, rows joined and cut into sequences."""

    kind: Literal["pretrain"] = "pretrain"
    sequence_tokens: int = Field(0, ge=0, le=131_072, description="0: `max_row_tokens`; else 16 and up.")

    @field_validator("sequence_tokens")
    @classmethod
    def _long_enough(cls, tokens: int) -> int:
        if 0 < tokens < 16:
            raise ValueError("a sequence has 16 tokens at least")
        return tokens


class Classify(Stored):
    """A class per text, by a head over the last token."""

    kind: Literal["classify"] = "classify"
    labels: list[str] = Field(
        default_factory=list, max_length=CLASSES_MAX, description="In the head's order; empty: sorted."
    )
    multi_label: bool = False
    balance_classes: bool = Field(False, description="Weigh each class by the inverse of its frequency.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label spread over all classes.")

    @model_validator(mode="after")
    def _consistent(self) -> Classify:
        if self.multi_label and self.label_smoothing:
            raise ValueError("label_smoothing is for one label a text")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels holds a class twice")
        if len(self.labels) == 1:
            raise ValueError("labels holds a single class; a head needs two")
        return self


class Regress(Stored):
    """A number per text, by a head over the last token; mean squared error."""

    kind: Literal["regress"] = "regress"
    standardise: bool = Field(True, description="Learn numbers of mean 0 and deviation 1, by the training rows.")


Objective = Annotated[Sft | Pretrain | Classify | Regress, Field(discriminator="kind")]

HEADED = ("classify", "regress")
"""Objectives that put a head of their own in the place of the vocabulary."""

ROW_FORMATS: Mapping[str, tuple[str, ...]] = {
    "sft": ("chat", "instruction"),
    "pretrain": ("text", "chat", "instruction", "classification", "regression"),
    "classify": ("classification", "chat", "instruction"),
    "regress": ("regression", "chat", "instruction"),
}
"""Objective -> the formats of rows that it learns from."""
