"""What an objective is to the loop: three pure steps, and their names by the recipe's `kind`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from feinschliff.formats.recipe import Objective
from feinschliff.formats.records import Record
from feinschliff.lm.chat import Chat, Encoded
from feinschliff.lm.flat import FlatBatch
from feinschliff.trainer.methods import sft
from feinschliff.trainer.terms import LossTerms

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Method(Protocol):
    """A module of `trainer/methods` with these functions."""

    def encode(self, chat: Chat, records: Sequence[Record], objective: Objective) -> list[Encoded]:
        """Rows as tokens with their labels marked."""
        ...

    def collate(self, rows: Sequence[Encoded]) -> FlatBatch:
        """Rows as one batch."""
        ...

    def loss(self, model: PreTrainedModel, batch: FlatBatch) -> LossTerms:
        """What the model makes of a batch."""
        ...


METHODS: Mapping[str, Method] = {"sft": sft}
