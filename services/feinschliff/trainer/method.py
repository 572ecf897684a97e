"""What an objective is to the loop: pure steps from rows to losses, and their names by the recipe's `kind`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from feinschliff.formats.heads import HeadFacts
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import FlatBatch
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.methods import classify, pretrain, regress, sft
from feinschliff.trainer.terms import LossTerms

ObjectiveT = TypeVar("ObjectiveT", contravariant=True)


class Method(Protocol[ObjectiveT]):
    """A module of `trainer/methods` with these functions; rows become tokens in `lm.encoding`."""

    def collate(self, rows: Sequence[Encoded], *, share_prefixes: bool = False) -> FlatBatch:
        """Rows as one batch, see `lm.flat.flatten`."""
        ...

    def loss(self, learner: Learner, batch: FlatBatch, objective: ObjectiveT) -> LossTerms:
        """What the learner makes of a batch; call inside `rows_apart`."""
        ...

    def observed(self, facts: HeadFacts | None) -> int:
        """How many numbers `observe` gives; 0 where the loss says it all."""
        ...

    def observe(self, facts: HeadFacts | None, batch: FlatBatch, terms: LossTerms) -> np.ndarray:
        """Numbers that validation adds up over all batches."""
        ...

    def metrics(self, facts: HeadFacts | None, observed: np.ndarray, loss: float) -> dict[str, float]:
        """Named numbers of a validation, from its sums and its mean loss."""
        ...

    def files(self, facts: HeadFacts | None, observed: np.ndarray) -> dict[str, bytes]:
        """Files for the result, from the sums of the validation of its weights."""
        ...


METHODS: Mapping[str, Method[Any]] = {"sft": sft, "pretrain": pretrain, "classify": classify, "regress": regress}
