"""Two models on the same rows: paired tests, intervals of the difference, and a verdict; all pure and seeded."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np

from feinschliff.evaluation.statistics.clusters import clustered_interval, gather, standard_error
from feinschliff.evaluation.statistics.intervals import (
    CONFIDENCE,
    N_MIN,
    RESAMPLES,
    SEED,
    Interval,
    Method,
    blocks,
    mean_interval,
    wilson,
)

ALPHA = 0.05

_EXACT_SIGNS_MAX = 14
_DIFFERENCES = Interval(-1.0, 1.0)


class Verdict(Enum):
    """What may be said of the second model against the first."""

    BETTER = "better"
    WORSE = "worse"
    NOT_ENOUGH_EVIDENCE = "not_enough_evidence"


class Judged(NamedTuple):
    """What a test says of the differences: see `Comparison`."""

    interval: Interval | None
    p: float | None
    method: Method
    spread: float


class Comparison(NamedTuple):
    """One grader over two runs on the same rows; `difference` is the second's mean less the first's.

    Only rows that both runs graded are pairs; `unpaired` counts the others. `p` is two-sided. `spread` is the standard
    deviation of the rows' differences, 0 below n = 2. `clusters` is how many of the `n` rows are no repetition of each
    other, `n` where all are; where they are fewer, `spread` is that of as many rows with the same standard error.
    """

    n: int
    unpaired: int
    mean_first: float | None
    mean_second: float | None
    difference: float | None
    interval: Interval | None
    p: float | None
    wins: int
    losses: int
    ties: int
    method: Method
    verdict: Verdict
    note: str
    spread: float = 0.0
    clusters: int = 0


def compare(
    first: Sequence[float | None],
    second: Sequence[float | None],
    *,
    is_binary: bool,
    alpha: float = ALPHA,
    seed: int = SEED,
    keys: Sequence[Hashable] | None = None,
) -> Comparison:
    """Compare two runs of one grader, row by row; position i is the same row in both.

    0/1 grades: exact McNemar test, Newcombe's interval. Others: sign-flip test, BCa bootstrap of the differences.
    The verdict follows p < alpha and the sign of the difference; `alpha` also sets the interval's confidence.

    Args:
        keys: of each position, what row it is; positions of one key repeat each other, and are drawn and flipped
            together. None, or all different: each position by itself.
    """
    known = zip(first, second, keys or range(len(first)), strict=True)
    paired = [(a, b, key) for a, b, key in known if a is not None and b is not None]
    pairs, kept = [(a, b) for a, b, _ in paired], [key for _, _, key in paired]
    n, clusters = len(pairs), len(set(kept))
    differences = [b - a for a, b in pairs]
    difference = math.fsum(differences) / n if n else None
    judged = Judged(None, None, Method.NONE, 0.0)
    if clusters >= N_MIN:
        judged = _judge(pairs, differences, is_binary, alpha, seed)
        if clusters < n:
            judged = _judge_clusters(differences, kept, alpha, seed)
    return Comparison(
        n=n,
        unpaired=len(first) - n,
        mean_first=math.fsum(a for a, _ in pairs) / n if n else None,
        mean_second=math.fsum(b for _, b in pairs) / n if n else None,
        difference=difference,
        interval=judged.interval,
        p=judged.p,
        wins=sum(d > 0 for d in differences),
        losses=sum(d < 0 for d in differences),
        ties=sum(d == 0 for d in differences),
        method=judged.method,
        verdict=verdict(difference, judged.p, alpha=alpha),
        note="" if clusters >= N_MIN else f"n = {clusters}: no test below n = {N_MIN}",
        spread=judged.spread,
        clusters=clusters,
    )


def verdict(difference: float | None, p: float | None, *, alpha: float = ALPHA) -> Verdict:
    """Better or worse only where chance alone would show such a difference less often than `alpha`."""
    if p is None or difference is None or p >= alpha or difference == 0:
        return Verdict.NOT_ENOUGH_EVIDENCE
    return Verdict.BETTER if difference > 0 else Verdict.WORSE


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p of McNemar's test (1947): a win is as likely as a loss; 1.0 where no pair differs.

    Twice the smaller binomial tail, at most 1, in whole numbers up to the last division.
    """
    n = wins + losses
    tail, term = 0, 1
    for k in range(min(wins, losses) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << n))


def newcombe(both: int, wins: int, losses: int, neither: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the difference of two paired proportions, second less first (Newcombe 1998b, method 10).

    Combines both Wilson intervals and takes the correlation of the pairs into account.
    """
    n = both + wins + losses + neither
    first, second = both + losses, both + wins
    p1, p2 = first / n, second / n
    low1, high1 = wilson(first, n, confidence=confidence)
    low2, high2 = wilson(second, n, confidence=confidence)
    phi = _phi(both, wins, losses, neither)
    below = (p2 - low2) ** 2 - 2 * phi * (p2 - low2) * (high1 - p1) + (high1 - p1) ** 2
    above = (high2 - p2) ** 2 - 2 * phi * (high2 - p2) * (p1 - low1) + (p1 - low1) ** 2
    difference = p2 - p1
    return Interval(
        max(-1.0, difference - math.sqrt(max(0.0, below))), min(1.0, difference + math.sqrt(max(0.0, above)))
    )


def sign_flip(differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """Two-sided p of Fisher's (1935) paired randomisation test: each difference could as well have the other sign.

    All sign patterns where there are at most 2^14, else random ones with (hits + 1) / (resamples + 1), which is never
    0 and never too small (Phipson and Smyth 2010). Zero differences say nothing and drop out; none left: 1.0.
    """
    data = np.abs(np.asarray([d for d in differences if d != 0], dtype=np.float64))
    if len(data) == 0:
        return 1.0
    seen = abs(math.fsum(differences)) * (1 - 1e-12)
    if len(data) <= _EXACT_SIGNS_MAX:
        patterns = np.arange(2 ** len(data))[:, None] >> np.arange(len(data)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ data) >= seen))
    random = np.random.default_rng(seed)
    hits = 0
    for rows in blocks(resamples, len(data)):
        signs = random.integers(0, 2, size=(rows, len(data)), dtype=np.int8) * 2 - 1
        hits += int(np.count_nonzero(np.abs(signs @ data) >= seen))
    return (hits + 1) / (resamples + 1)


def _judge(
    pairs: Sequence[tuple[float, float]], differences: Sequence[float], is_binary: bool, alpha: float, seed: int
) -> Judged:
    spread = float(np.std(differences, ddof=1))
    if not is_binary:
        interval, _ = mean_interval(differences, within=_DIFFERENCES, confidence=1 - alpha, seed=seed)
        return Judged(interval, sign_flip(differences, seed=seed), Method.SIGN_FLIP_BOOTSTRAP, spread)
    both = sum(a == 1 and b == 1 for a, b in pairs)
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    interval = newcombe(both, wins, losses, len(pairs) - both - wins - losses, confidence=1 - alpha)
    return Judged(interval, mcnemar(wins, losses), Method.MCNEMAR_NEWCOMBE, spread)


def _judge_clusters(differences: Sequence[float], keys: Sequence[Hashable], alpha: float, seed: int) -> Judged:
    """As for values that are not 0 or 1, with whole clusters drawn, and flipped by the sums of their differences."""
    clusters = gather(differences, keys)
    interval, _ = clustered_interval(clusters, within=_DIFFERENCES, confidence=1 - alpha, seed=seed)
    p = sign_flip([float(total) for total in clusters.sums_G], seed=seed)
    spread = standard_error(clusters) * math.sqrt(len(differences))
    return Judged(interval, p, Method.SIGN_FLIP_BOOTSTRAP, spread)


def _phi(both: int, wins: int, losses: int, neither: int) -> float:
    """Correlation of the pairs, with Newcombe's continuity correction; 0 where a margin is empty."""
    margins = (both + losses) * (wins + neither) * (both + wins) * (losses + neither)
    if margins == 0:
        return 0.0
    determinant = float(both * neither - wins * losses)
    if determinant > 0:
        determinant = max(0.0, determinant - (both + wins + losses + neither) / 2)
    return determinant / math.sqrt(margins)
