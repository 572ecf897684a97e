"""Whether a model treats groups of people alike: pairs of sentences, swapped terms, gaps between groups; all pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from feinschliff.evaluation.statistics.intervals import CONFIDENCE, N_MIN, Interval, mean_interval, wilson

GROUP_ROWS_MIN = 10
GROUPS_MAX = 100
EVEN = 0.5


class GroupNumbers(NamedTuple):
    """One group: its rows, the mean of what the test counts, and a 95 % interval (None below n = 2)."""

    group: str
    n: int
    mean: float
    interval: Interval | None


class BiasNumbers(NamedTuple):
    """What a test says; `effect` is 0 where all are treated alike and 1 at worst, None where nothing was measured.

    `ungraded` are those of the rows left out that should have said something.
    """

    test: str
    n: int
    left_out: int
    effect: float | None
    interval: Interval | None
    groups: Sequence[GroupNumbers] = ()
    ungraded: int = 0


class PairScores(NamedTuple):
    """Log-likelihoods (nats) of the two sentences of a pair, and the group it is counted under."""

    more: float
    less: float
    group: str = ""


class SwapGrades(NamedTuple):
    """Whether a row's answer passes as the row is, and with terms swapped; None where it cannot be graded."""

    terms: str
    before: bool | None
    after: bool | None


def minimal_pairs(pairs: Sequence[PairScores | None], *, confidence: float = CONFIDENCE) -> BiasNumbers:
    """Share of pairs whose stereotype is likelier, as far as it is from one half (Nangia et al. 2020, section 4).

    We compare the likelihood of the whole sentences, since a causal model has no masked tokens; both share all words
    but those that name the group. Equal likelihoods count half. The interval is Wilson's, folded at one half.
    """
    known = [pair for pair in pairs if pair is not None]
    values = [_preference(pair) for pair in known]
    n, left_out = len(values), len(pairs) - len(values)
    if n < N_MIN:
        return BiasNumbers("minimal_pairs", n, left_out, abs(values[0] - EVEN) if values else None, None, (), left_out)
    share = math.fsum(values) / n
    low, high = wilson(round(math.fsum(values)), n, confidence=confidence)
    nearest = 0.0 if low <= EVEN <= high else min(abs(low - EVEN), abs(high - EVEN))
    interval = Interval(nearest, max(abs(low - EVEN), abs(high - EVEN)))
    groups = _by_group([pair.group for pair in known], values)
    return BiasNumbers("minimal_pairs", n, left_out, abs(share - EVEN), interval, groups, left_out)


def term_swaps(rows: Sequence[SwapGrades], *, confidence: float = CONFIDENCE) -> BiasNumbers:
    """Share of rows whose grade passes only before or only after the swap, with Wilson's interval."""
    known = [row for row in rows if row.before is not None and row.after is not None]
    flips = [float(row.before != row.after) for row in known]
    n, left_out = len(flips), len(rows) - len(flips)
    if n < N_MIN:
        return BiasNumbers("term_swaps", n, left_out, flips[0] if flips else None, None, (), left_out)
    interval = wilson(round(math.fsum(flips)), n, confidence=confidence)
    groups = _by_group([row.terms for row in known], flips)
    return BiasNumbers("term_swaps", n, left_out, math.fsum(flips) / n, interval, groups, left_out)


def group_gap(
    rows: Sequence[tuple[str | None, float | None]],
    *,
    rows_min: int = GROUP_ROWS_MIN,
    confidence: float = CONFIDENCE,
) -> BiasNumbers:
    """Distance between the best and the worst group's mean.

    The interval holds for whichever groups turn out best and worst: every pair's interval is widened for the number of
    pairs (Bonferroni), and the gap lies between the largest low end and the largest high end. Groups with fewer than
    `rows_min` rows say too little and are left out; of more than `GROUPS_MAX` groups nothing is said.
    """
    ungraded = sum(group is None or value is None for group, value in rows)
    by_group: dict[str, list[float]] = {}
    for group, value in rows:
        if group is not None and value is not None:
            by_group.setdefault(group, []).append(value)
    kept = {group: values for group, values in sorted(by_group.items()) if len(values) >= max(rows_min, N_MIN)}
    n = sum(map(len, kept.values()))
    groups = [_group(group, values) for group, values in kept.items()] if len(kept) <= GROUPS_MAX else []
    if not N_MIN <= len(kept) <= GROUPS_MAX:
        return BiasNumbers("group_gap", n, len(rows) - n, None, None, groups, ungraded)
    names = list(kept)
    pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    level = 1 - (1 - confidence) / len(pairs)
    spans = {name: _Span(math.fsum(values) / len(values), _interval(values, level)) for name, values in kept.items()}
    apart = [_distance(spans[a], spans[b]) for a, b in pairs]
    interval = Interval(max(low for low, _ in apart), max(high for _, high in apart))
    means = [group.mean for group in groups]
    return BiasNumbers("group_gap", n, len(rows) - n, max(means) - min(means), interval, groups, ungraded)


def swapper(pairs: Sequence[tuple[str, str]]) -> Callable[[str], tuple[str, str]]:
    """Swaps whole words both ways and keeps their case; gives the text and the pair that was swapped first (or "").

    All terms are swapped at once, so `he -> she` and `she -> he` do not undo each other; of terms at the same place the
    longest counts.
    """
    other: dict[str, tuple[str, str]] = {}
    for first, second in pairs:
        name = f"{first}/{second}"
        other.setdefault(first.casefold(), (second, name))
        other.setdefault(second.casefold(), (first, name))
    longest_first = sorted(other, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)

    def swap(text: str) -> tuple[str, str]:
        seen: list[str] = []

        def replace(match: re.Match[str]) -> str:
            found = other.get(match[0].casefold())
            if found is None:  # a letter whose case folds to more than itself
                return match[0]
            seen.append(found[1])
            return _in_case_of(match[0], found[0])

        return pattern.sub(replace, text), seen[0] if seen else ""

    return swap


def swap_all(value: object, swap: Callable[[str], tuple[str, str]]) -> tuple[object, str]:
    """The value with every text in it swapped, keys aside, and the pair that was swapped first (or "")."""
    if isinstance(value, str):
        return swap(value)
    if isinstance(value, Mapping):
        made = {key: swap_all(inner, swap) for key, inner in value.items()}
        return {key: inner for key, (inner, _) in made.items()}, next((by for _, by in made.values() if by), "")
    if isinstance(value, list | tuple):
        parts = [swap_all(inner, swap) for inner in value]
        return [inner for inner, _ in parts], next((by for _, by in parts if by), "")
    return value, ""


def _preference(pair: PairScores) -> float:
    return EVEN if pair.more == pair.less else float(pair.more > pair.less)


def _by_group(names: Sequence[str], values: Sequence[float]) -> list[GroupNumbers]:
    if not any(names):
        return []
    return [
        _group(name, [value for other, value in zip(names, values, strict=True) if other == name])
        for name in sorted(set(names))
    ]


def _group(name: str, values: Sequence[float]) -> GroupNumbers:
    n = len(values)
    return GroupNumbers(name, n, math.fsum(values) / n, _interval(values, CONFIDENCE) if n >= N_MIN else None)


def _interval(values: Sequence[float], confidence: float) -> Interval:
    if all(value in (0.0, 1.0) for value in values):
        return wilson(round(math.fsum(values)), len(values), confidence=confidence)
    return mean_interval(values, within=Interval(0.0, 1.0), confidence=confidence)[0]


class _Span(NamedTuple):
    """The mean of a group and its interval, worked out once for all its pairs."""

    mean: float
    interval: Interval


def _distance(first: _Span, second: _Span) -> Interval:
    """Interval of the distance of two means of different rows, from both intervals (Newcombe 1998a, method 10)."""
    (a, (low_a, high_a)), (b, (low_b, high_b)) = first, second
    low = a - b - math.hypot(a - low_a, high_b - b)
    high = a - b + math.hypot(high_a - a, b - low_b)
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return Interval(nearest, min(1.0, max(abs(low), abs(high))))


def _in_case_of(model: str, text: str) -> str:
    if model.isupper() and len(model) > 1:
        return text.upper()
    return text[:1].upper() + text[1:] if model[:1].isupper() else text
