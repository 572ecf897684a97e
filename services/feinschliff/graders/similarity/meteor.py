"""METEOR by equal words and equal stems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from feinschliff.graders.similarity.porter import stem
from feinschliff.graders.similarity.tokens import words_13a

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
"""Weight of recall, shape and weight of the penalty, as in NLTK."""


class _Word(NamedTuple):
    place: int
    form: str


def meteor(answer: str, reference: str) -> float | None:
    """NLTK's `single_meteor_score` over 13a words in small letters (Lavie and Agarwal 2007), without its third stage:
    words that mean the same are found by WordNet's data, which does not come with the platform.

    None where the reference has no words.
    """
    found, wanted = ([word.lower() for word in words_13a(text)] for text in (answer, reference))
    if not wanted:
        return None
    matches = _aligned(found, wanted)
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(found), len(matches) / len(wanted)
    mean: float = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    penalty: float = GAMMA * (_chunks(matches) / len(matches)) ** BETA
    return (1 - penalty) * mean


def _aligned(found: Sequence[str], wanted: Sequence[str]) -> list[tuple[int, int]]:
    """Places of words that belong together, by equal form first, then by equal stem, in the answer's order."""
    left, right = ([_Word(*word) for word in enumerate(words)] for words in (found, wanted))
    by_form = _matched(left, right)
    left, right = _rest(left, right, by_form)
    by_stem = _matched([_Word(at, stem(form)) for at, form in left], [_Word(at, stem(form)) for at, form in right])
    return sorted([*by_form, *by_stem])


def _matched(left: Sequence[_Word], right: Sequence[_Word]) -> list[tuple[int, int]]:
    """From the last word on, each with the last free one of the same form."""
    places: dict[str, list[int]] = defaultdict(list)
    for word in right:
        places[word.form].append(word.place)
    return [(word.place, places[word.form].pop()) for word in reversed(left) if places[word.form]]


def _rest(
    left: Sequence[_Word], right: Sequence[_Word], matches: Sequence[tuple[int, int]]
) -> tuple[list[_Word], list[_Word]]:
    used_left, used_right = {match[0] for match in matches}, {match[1] for match in matches}
    return [word for word in left if word.place not in used_left], [w for w in right if w.place not in used_right]


def _chunks(matches: Sequence[tuple[int, int]]) -> int:
    """Runs of matches that stand side by side in both texts."""
    return 1 + sum(b != (a[0] + 1, a[1] + 1) for a, b in pairwise(matches))
