"""What all methods share that learn the next token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from feinschliff.formats.heads import HeadFacts
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import FlatBatch, flatten
from feinschliff.lm.logprobs import head_of, score_states
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.terms import LossTerms


def collate(rows: Sequence[Encoded], *, share_prefixes: bool = False) -> FlatBatch:
    return flatten(rows, share_prefixes=share_prefixes)


def next_token_loss(learner: Learner, batch: FlatBatch, *, smoothing: float = 0.0) -> LossTerms:
    scores = score_states(learner.states(batch), batch.labels_N, head_of(learner.transformer), smoothing=smoothing)
    return LossTerms(cross_entropy(scores.logprobs_N), scores.is_top_N)


def cross_entropy(logprobs_N: Tensor) -> Tensor:
    """Negative log-likelihood of each label, in nats, (N,).

    Args:
        logprobs_N: log p(label | what stands before it in its row); (N,).
    """
    return -logprobs_N


def observed(facts: HeadFacts | None) -> int:
    return 0


def observe(facts: HeadFacts | None, batch: FlatBatch, terms: LossTerms) -> np.ndarray:
    return np.zeros(0)


def metrics(facts: HeadFacts | None, observed: np.ndarray, loss: float) -> dict[str, float]:
    return {}


def files(facts: HeadFacts | None, observed: np.ndarray) -> dict[str, bytes]:
    return {}
