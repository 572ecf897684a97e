"""What learns in a job: a base with an adaptation in it, and a head where the objective has one of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from feinschliff.formats.heads import HeadFacts
from feinschliff.lm.adaptations import Keep
from feinschliff.lm.flat import FlatBatch, hidden_states
from feinschliff.lm.heads import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "head.score.weight"


@dataclass(frozen=True)
class Learner:
    """The adapted base, held together with the adaptation that knows how to keep it."""

    adaptation: Keep[Any]
    adapted: nn.Module
    head: Head | None = None

    @property
    def transformer(self) -> PreTrainedModel:
        """What computes."""
        return self.adaptation.transformer(self.adapted)

    @property
    def facts(self) -> HeadFacts | None:
        """What the head tells."""
        return None if self.head is None else self.head.facts

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that train, by a name that stays; the head's comes last."""
        weights = self.adaptation.trained(self.adapted)
        return weights if self.head is None else {**weights, HEAD: self.head.weight_CH}

    def states(self, batch: FlatBatch) -> Tensor:
        """The last hidden state before each label, (N, H); call inside `rows_apart`."""
        return hidden_states(self.transformer, batch).index_select(0, batch.label_positions_N)

    def save(self, folder: Path, *, base_model: str) -> None:
        """Write what was trained; equal weights give equal bytes."""
        self.adaptation.save(self.adapted, folder, base_model=base_model)
        if self.head is not None:
            self.head.save(folder)

    def restore(self, folder: Path) -> None:
        """Replace the trained weights by saved ones of the same shape."""
        self.adaptation.restore(self.adapted, folder)
        if self.head is not None:
            self.head.restore(folder)
