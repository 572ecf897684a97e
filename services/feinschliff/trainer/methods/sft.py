"""Supervised fine-tuning: cross entropy on the tokens of trained answers, nothing else."""

from __future__ import annotations

from feinschliff.formats.objectives import Sft
from feinschliff.lm.flat import FlatBatch
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.methods.tokens import collate, files, metrics, next_token_loss, observe, observed
from feinschliff.trainer.terms import LossTerms

__all__ = ["collate", "files", "loss", "metrics", "observe", "observed"]


def loss(learner: Learner, batch: FlatBatch, objective: Sft) -> LossTerms:
    return next_token_loss(learner, batch, smoothing=objective.label_smoothing)
