"""Continued pre-training: cross entropy on every token of plain text."""

from __future__ import annotations

import math

import numpy as np

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import Pretrain
from feinschliff.lm.flat import FlatBatch
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.methods.tokens import collate, files, next_token_loss, observe, observed
from feinschliff.trainer.terms import LossTerms

__all__ = ["collate", "files", "loss", "metrics", "observe", "observed"]

NATS_MAX = 700.0
"""Beyond, the exponential is no number; a vocabulary of e^700 words does not exist."""


def loss(learner: Learner, batch: FlatBatch, objective: Pretrain) -> LossTerms:
    return next_token_loss(learner, batch)


def metrics(facts: HeadFacts | None, observed: np.ndarray, loss: float) -> dict[str, float]:
    """Perplexity: e to the mean loss of a token."""
    return {"perplexity": math.exp(min(loss, NATS_MAX))}
