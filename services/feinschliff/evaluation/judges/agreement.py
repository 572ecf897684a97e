"""How far a judge agrees with people, and what it likes too much; all pure and seeded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feinschliff.evaluation.statistics.intervals import CONFIDENCE, N_MIN, RESAMPLES, SEED, Interval, wilson

ROWS_MIN = 30
LEFT_OUT_SHARE_MAX = 0.1
"""A judge that is silent on more of the rows is measured only where it finds it easy."""
KAPPA_MIN = 0.4
POSITION_BIAS_MAX = 0.2
VERBOSITY_BIAS_MAX = 0.3


class Judged(NamedTuple):
    """One answer: what people and the judge say of it.

    `human` and `judge` are labels (for scores `pass` or `fail`), the values are numbers in [0, 1]; `flips` says whether
    the judge prefers the same place in both orders of two answers (None: they were not compared).
    """

    human: str
    judge: str
    human_passes: bool
    judge_passes: bool
    human_value: float
    judge_value: float
    characters: int
    flips: bool | None = None


class Measured(NamedTuple):
    """What a calibration says; a number is None where it cannot be said."""

    n: int
    left_out: int
    agreement: float | None
    agreement_interval: Interval | None
    kappa: float | None
    kappa_interval: Interval | None
    true_positive_rate: float | None
    true_negative_rate: float | None
    correlation: float | None
    confusion: Mapping[str, int]
    position_bias: float | None
    verbosity_bias: float | None


class Doubt(NamedTuple):
    """What speaks against a judge; one that forbids keeps it from gating."""

    code: str
    forbids: bool
    rows: int
    message: str


def measure(rows: Sequence[Judged], left_out: int, *, is_score: bool, confidence: float = CONFIDENCE) -> Measured:
    """All that the rows say about the judge; below n = 2 there are no intervals."""
    n = len(rows)
    pairs = [(row.human, row.judge) for row in rows]
    alike = sum(human == judge for human, judge in pairs)
    enough = n >= N_MIN
    flips = [row.flips for row in rows if row.flips is not None]
    excess = [row.judge_value - row.human_value for row in rows]
    return Measured(
        n=n,
        left_out=left_out,
        agreement=alike / n if n else None,
        agreement_interval=wilson(alike, n, confidence=confidence) if enough else None,
        kappa=kappa(pairs),
        kappa_interval=kappa_interval(pairs, confidence=confidence) if enough else None,
        true_positive_rate=_rate([row.judge_passes for row in rows if row.human_passes]),
        true_negative_rate=_rate([not row.judge_passes for row in rows if not row.human_passes]),
        correlation=spearman([r.human_value for r in rows], [r.judge_value for r in rows]) if is_score else None,
        confusion={} if is_score else dict(Counter(f"{human}/{judge}" for human, judge in pairs)),
        position_bias=sum(flips) / len(flips) if flips else None,
        verbosity_bias=spearman([row.characters for row in rows], excess),
    )


def doubts(measured: Measured, *, kappa_min: float = KAPPA_MIN, rows_min: int = ROWS_MIN) -> list[Doubt]:
    """What speaks against the judge, the worst first.

    A judge must not gate on too few human judgements, or where it agrees with people hardly more than chance would
    (kappa below `kappa_min`; 0.4 is where Landis and Koch, 1977, begin to speak of moderate agreement).
    """
    found = []
    if measured.n < rows_min:
        message = f"{measured.n} rows were judged by both; below {rows_min} the agreement says little."
        found.append(Doubt("TOO_FEW_ROWS", True, measured.n, message))
    if measured.kappa is None:
        found.append(Doubt("KAPPA_UNKNOWN", True, measured.n, "People or judge say the same of every row."))
    elif measured.kappa < kappa_min:
        message = f"kappa is {measured.kappa:.3f}; from {kappa_min:g} on a judge is believed."
        found.append(Doubt("KAPPA_LOW", True, measured.n, message))
    if measured.position_bias is not None and measured.position_bias > POSITION_BIAS_MAX:
        message = f"{measured.position_bias:.0%} of the verdicts follow the place of an answer, not the answer."
        found.append(Doubt("POSITION_BIAS", True, measured.n, message))
    if measured.verbosity_bias is not None and abs(measured.verbosity_bias) > VERBOSITY_BIAS_MAX:
        likes = "long" if measured.verbosity_bias > 0 else "short"
        message = (
            f"Beyond what people say the judge likes {likes} answers (rank correlation {measured.verbosity_bias:.2f})."
        )
        found.append(Doubt("VERBOSITY_BIAS", False, measured.n, message))
    if measured.left_out:
        message = f"{measured.left_out} rows could not be judged or have no fitting human judgement."
        is_much = measured.left_out > LEFT_OUT_SHARE_MAX * (measured.n + measured.left_out)
        found.append(Doubt("ROWS_LEFT_OUT", is_much, measured.left_out, message))
    return found


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement beyond chance (Cohen 1960), -1 to 1; None where chance alone would agree on every row."""
    n = len(pairs)
    if n == 0:
        return None
    humans, judges = Counter(human for human, _ in pairs), Counter(judge for _, judge in pairs)
    seen = sum(human == judge for human, judge in pairs) / n
    chance = sum(count * judges[label] for label, count in humans.items()) / n**2
    return None if chance >= 1 else (seen - chance) / (1 - chance)


def kappa_interval(
    pairs: Sequence[tuple[str, str]], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval | None:
    """Percentile bootstrap over rows; draws without a kappa are left out, and None where they are all that there is.

    Rows with the same two labels are alike, so drawing rows is drawing the counts of the confusion table.
    """
    n = len(pairs)
    labels = sorted({label for pair in pairs for label in pair})
    place = {label: k for k, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)))
    for human, judge in pairs:
        table[place[human], place[judge]] += 1
    draws = np.random.default_rng(seed).multinomial(n, (table / n).ravel(), size=resamples)
    tables = draws.reshape(-1, len(labels), len(labels)) / n
    seen = np.trace(tables, axis1=1, axis2=2)
    chance = (tables.sum(axis=2) * tables.sum(axis=1)).sum(axis=1)
    known = chance < 1 - 1e-12
    if not known.any():
        return None
    kappas = (seen[known] - chance[known]) / (1 - chance[known])
    tail = (1 - confidence) / 2
    low, high = np.quantile(kappas, [tail, 1 - tail])
    return Interval(float(low), float(high))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation (Spearman 1904), ties by their mean rank; None where one side is all alike or below n = 2."""
    if len(first) < N_MIN:
        return None
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a**2).sum()) * float((b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None


def _rate(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: NDArray[np.float64] = (ends - (counts - 1) / 2).astype(np.float64)
    return means[place]
