"""A class per text, or several: cross entropy of a head over the last token."""

from __future__ import annotations

import csv
import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import Classify
from feinschliff.lm.flat import FlatBatch
from feinschliff.lm.heads import targets_of
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.methods.tokens import collate
from feinschliff.trainer.terms import LossTerms

__all__ = ["collate", "files", "loss", "metrics", "observe", "observed"]

CONFUSION_CLASSES_MAX = 1000
"""Beyond, right and wrong answers are counted by class alone: a matrix would have millions of cells."""

CONFUSION_NAME = "confusion.csv"


def loss(learner: Learner, batch: FlatBatch, objective: Classify) -> LossTerms:
    """Softmax cross entropy of each text, or the mean over all classes of the binary one where several may be right.

    With balanced classes a text counts by its class's weight; weights have mean 1 over the training rows, so the sum is
    divided by the number of texts, not by the weights that fall into a batch (as torch's own mean would).
    """
    assert learner.head is not None
    facts = learner.head.facts
    scores_NC = learner.head(learner.states(batch))
    wanted = targets_of(batch.row_targets, facts).to(scores_NC.device)
    weights_C = class_weights(facts).to(scores_NC.device) if objective.balance_classes else None
    if facts.multi_label:
        losses_N = F.binary_cross_entropy_with_logits(scores_NC, wanted, pos_weight=weights_C, reduction="none").mean(1)
        said_NC = scores_NC.detach() > 0
        return LossTerms(losses_N, (said_NC == wanted.bool()).all(dim=1), said_NC)
    losses_N = F.cross_entropy(
        scores_NC, wanted, weight=weights_C, label_smoothing=objective.label_smoothing, reduction="none"
    )
    said_N = scores_NC.detach().argmax(dim=-1)
    return LossTerms(losses_N, said_N == wanted, said_N)


def class_weights(facts: HeadFacts) -> Tensor:
    """The inverse of each class's frequency, (C,), fp32; 1 for a class without training rows.

    One class a text: rows / (classes x rows of the class), which has mean 1 over the rows (King and Zeng 2001). Where
    several may be right: rows without the class / rows with it, a factor on what speaks for the class.
    """
    rows_C = torch.tensor(facts.rows_by_class, dtype=torch.float32)
    known_C = rows_C.clamp(min=1)
    if facts.multi_label:
        return torch.where(rows_C > 0, (facts.rows - rows_C).clamp(min=1) / known_C, 1.0)
    there = int((rows_C > 0).sum())
    return torch.where(rows_C > 0, rows_C.sum() / (there * known_C), 1.0)


def observed(facts: HeadFacts | None) -> int:
    assert facts is not None
    return facts.outputs**2 if _is_matrix(facts) else 3 * facts.outputs


def observe(facts: HeadFacts | None, batch: FlatBatch, terms: LossTerms) -> np.ndarray:
    """Cells of the confusion matrix, truth by row; or of three counts by class, see `_counts`."""
    assert facts is not None
    assert terms.said_N is not None
    wanted, said = targets_of(batch.row_targets, facts).numpy(), terms.said_N.cpu().numpy()
    classes = facts.outputs
    if facts.multi_label:
        right = wanted.astype(bool)
        return np.concatenate([(right & said).sum(0), (~right & said).sum(0), (right & ~said).sum(0)]).astype(float)
    if classes <= CONFUSION_CLASSES_MAX:
        return np.bincount(wanted * classes + said, minlength=classes * classes).astype(float)
    hit = wanted == said
    counts = [np.bincount(one, minlength=classes) for one in (wanted[hit], said[~hit], wanted[~hit])]
    return np.concatenate(counts).astype(float)


def metrics(facts: HeadFacts | None, observed: np.ndarray, loss: float) -> dict[str, float]:
    """Macro-F1: the mean of 2 TP / (2 TP + FP + FN) over the classes that were named or said at all."""
    assert facts is not None
    right, said_only, missed = _counts(facts, observed)
    named = 2 * right + said_only + missed
    scores = 2 * right[named > 0] / named[named > 0]
    return {"macro_f1": float(scores.mean()) if len(scores) else 0.0}


def files(facts: HeadFacts | None, observed: np.ndarray) -> dict[str, bytes]:
    """`confusion.csv`: texts by their class (rows) and by what was said (columns); by class alone where that is no
    matrix: rightly said, wrongly said, missed."""
    assert facts is not None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if _is_matrix(facts):
        writer.writerow(["class", *facts.classes])
        for label, row in zip(facts.classes, observed.reshape(facts.outputs, -1), strict=True):
            writer.writerow([label, *(int(count) for count in row)])
    else:
        writer.writerow(["class", "right", "wrong", "missed"])
        for label, right, wrong, missed in zip(facts.classes, *_counts(facts, observed), strict=True):
            writer.writerow([label, int(right), int(wrong), int(missed)])
    return {CONFUSION_NAME: text.getvalue().encode()}


def _counts(facts: HeadFacts, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By class: texts for which it was rightly said, wrongly said, and missed."""
    if _is_matrix(facts):
        cells = observed.reshape(facts.outputs, -1)
        right = cells.diagonal()
        return right, cells.sum(0) - right, cells.sum(1) - right
    right, said_only, missed = observed.reshape(3, -1)
    return right, said_only, missed


def _is_matrix(facts: HeadFacts) -> bool:
    return not facts.multi_label and facts.outputs <= CONFUSION_CLASSES_MAX
