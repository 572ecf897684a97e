"""BLEU and GLEU of one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from feinschliff.graders.similarity.tokens import runs, words_13a

ORDER_MAX = 4


def bleu(answer: str, reference: str) -> float | None:
    """sacrebleu's `sentence_bleu` over 100 (Papineni et al. 2002): 13a words, exponential smoothing, and only the
    orders that the answer is long enough for. None where the reference has no words.
    """
    found, wanted = words_13a(answer), words_13a(reference)
    if not wanted:
        return None
    correct = [(runs(found, n) & runs(wanted, n)).total() for n in range(1, ORDER_MAX + 1)]
    if not any(correct):
        return 0.0
    brevity = 1.0 if len(found) >= len(wanted) else math.exp(1 - len(wanted) / len(found))
    return brevity * math.exp(_mean_log_precision(correct, len(found)))


def _mean_log_precision(correct: Sequence[int], length: int) -> float:
    """Chen and Cherry 2014, method 3: each order without a hit counts half of the one before."""
    logs, smoothing = [], 1.0
    for n, hits in enumerate(correct, 1):
        total = length - n + 1
        if total <= 0:
            break
        if hits == 0:
            smoothing *= 2
        logs.append(math.log(hits / total if hits else 1 / (smoothing * total)))
    return sum(logs) / len(logs)


def gleu(answer: str, reference: str) -> float | None:
    """NLTK's `sentence_gleu` over 13a words (Wu et al. 2016): the lesser of precision and recall of all runs of 1 to 4
    words together. None where the reference has no words.
    """
    found, wanted = words_13a(answer), words_13a(reference)
    if not wanted:
        return None
    orders = range(1, ORDER_MAX + 1)
    hits = sum((runs(found, n) & runs(wanted, n)).total() for n in orders)
    return hits / max(sum(max(len(words) - n + 1, 0) for n in orders) for words in (found, wanted))
