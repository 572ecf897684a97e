"""A number per text: the squared error of a head over the last token."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import Regress
from feinschliff.lm.flat import FlatBatch
from feinschliff.lm.heads import targets_of
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.methods.tokens import collate, files
from feinschliff.trainer.terms import LossTerms

__all__ = ["collate", "files", "loss", "metrics", "observe", "observed"]


def loss(learner: Learner, batch: FlatBatch, objective: Regress) -> LossTerms:
    """(s - (y - mean) / deviation)^2 for each text; nothing is hit or missed."""
    assert learner.head is not None
    scores_NC = learner.head(learner.states(batch))
    wanted_N = targets_of(batch.row_targets, learner.head.facts).to(scores_NC.device)
    losses_N = F.mse_loss(scores_NC[:, 0], wanted_N, reduction="none")
    return LossTerms(losses_N, None, learner.head.values(scores_NC.detach()))


def observed(facts: HeadFacts | None) -> int:
    return 3


def observe(facts: HeadFacts | None, batch: FlatBatch, terms: LossTerms) -> np.ndarray:
    """Texts, absolute errors and squared errors, in the unit of the data."""
    assert terms.said_N is not None
    wanted_N = torch.tensor([row[0] for row in batch.row_targets], dtype=torch.float64)
    errors_N = (terms.said_N.cpu() - wanted_N).numpy()
    return np.array([len(errors_N), np.abs(errors_N).sum(), np.square(errors_N).sum()])


def metrics(facts: HeadFacts | None, observed: np.ndarray, loss: float) -> dict[str, float]:
    """Mean absolute error, and the root of the mean squared error."""
    texts, absolute, squared = observed.tolist()
    return {"mae": absolute / texts, "rmse": math.sqrt(squared / texts)}
