"""What is added to and taken from logits before a token is drawn: bias, and penalties on tokens used before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from feinschliff.lm.drawing import Floats


@dataclass(frozen=True)
class Weights:
    """How logits are changed; as it stands, not at all.

    With c(t) the uses of token t in the answer so far, and s(t) its logit:

    - repetition r, for tokens of the prompt or the answer: s / r where s > 0, s * r otherwise. The division is from
      Keskar et al. 2019 (arXiv:1909.05858, section 4.1); the multiplication keeps it a penalty below 0, as
      transformers' `RepetitionPenaltyLogitsProcessor` has it.
    - then frequency f and presence p, for tokens of the answer alone: s - f * c(t) - p * (1 if c(t) > 0 else 0), as
      OpenAI's API defines them.
    - then the bias: s + bias(t).
    """

    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def change_nothing(self) -> bool:
        return self.repetition == 1 and self.frequency == 0 and self.presence == 0 and not self.bias


class Penalties:
    """The uses of tokens in one request, and what follows for its logits."""

    def __init__(self, weights: Weights, prompt_ids: Sequence[int] = ()) -> None:
        self._weights = weights
        self._uses: Counter[int] = Counter()
        self._repeated = set(prompt_ids) if weights.repetition != 1 else set()

    def add(self, token: int) -> None:
        self._uses[token] += 1
        if self._weights.repetition != 1:
            self._repeated.add(token)

    def apply(self, logits_V: Floats) -> None:
        """Changes the logits in place; ids beyond the vocabulary have none."""
        weights = self._weights
        if self._repeated:
            ids_N = np.fromiter(self._repeated, np.int64, len(self._repeated))
            ids_N = ids_N[ids_N < logits_V.size]
            before_N = logits_V[ids_N]
            factor = np.float32(weights.repetition)
            logits_V[ids_N] = np.where(before_N > 0, before_N / factor, before_N * factor)
        if self._uses and (weights.frequency or weights.presence):
            ids_N = np.fromiter(self._uses, np.int64, len(self._uses))
            counts_N = np.fromiter(self._uses.values(), np.float32, len(self._uses))
            logits_V[ids_N] -= np.float32(weights.frequency) * counts_N + np.float32(weights.presence)
        for token, bias in weights.bias.items():
            if token < logits_V.size:
                logits_V[token] += np.float32(bias)
