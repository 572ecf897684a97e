"""ROUGE: runs of words in common, and the longest common sequence (Lin 2004)."""

from __future__ import annotations

from rapidfuzz.distance import LCSseq

from feinschliff.graders.similarity.tokens import runs, words_rouge


def rouge_n(answer: str, reference: str, n: int) -> float | None:
    """rouge-score's F-measure of `n` words in a row, without stemming; None where the reference has no such run."""
    found, wanted = runs(words_rouge(answer), n), runs(words_rouge(reference), n)
    if not wanted:
        return None
    return _f_measure((found & wanted).total(), found.total(), wanted.total())


def rouge_l(answer: str, reference: str) -> float | None:
    """rouge-score's F-measure of the longest common sequence of words; None where the reference has no words."""
    found, wanted = words_rouge(answer), words_rouge(reference)
    if not wanted:
        return None
    return _f_measure(LCSseq.similarity(found, wanted), len(found), len(wanted))


def _f_measure(hits: int, found: int, wanted: int) -> float:
    if hits == 0:
        return 0.0
    precision, recall = hits / found, hits / wanted
    return 2 * precision * recall / (precision + recall)
