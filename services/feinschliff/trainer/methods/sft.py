"""Supervised fine-tuning: cross entropy on the tokens of trained answers, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from feinschliff.formats.recipe import Objective
from feinschliff.formats.records import Record
from feinschliff.lm.chat import Chat, Encoded
from feinschliff.lm.flat import FlatBatch, flatten
from feinschliff.lm.logprobs import score_labels
from feinschliff.trainer.terms import LossTerms

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def encode(chat: Chat, records: Sequence[Record], objective: Objective) -> list[Encoded]:
    return chat.encode(records, loss_on=objective.loss_on)


def collate(rows: Sequence[Encoded]) -> FlatBatch:
    return flatten(rows)


def loss(model: PreTrainedModel, batch: FlatBatch) -> LossTerms:
    scores = score_labels(model, batch)
    return LossTerms(cross_entropy(scores.logprobs_N), batch.labels, int(scores.is_top_N.sum()))


def cross_entropy(logprobs_N: Tensor) -> Tensor:
    """Negative log-likelihood of the labels, in nats, summed.

    Args:
        logprobs_N: log p(label | what stands before it in its row); (N,).
    """
    return -logprobs_N.sum()
