"""Many comparisons at once, differences that matter, and how many rows would show one; all pure.

A gate whose rules must all hold needs no correction: to pass wrongly, the one rule that should fail must hold by
chance, which happens no oftener than at its own level (the intersection-union test, Berger 1982). Picking the best of
several graders or candidates does need one, and gets Holm's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from feinschliff.evaluation.statistics.intervals import N_MIN
from feinschliff.evaluation.statistics.paired import ALPHA, Comparison, Verdict

POWER_WANTED = 0.8
ROWS_MAX = 10**9
"""More rows than this are never there; a difference that needs them cannot be shown."""


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for being many, in the order given (Holm 1979); never below the one given, at most 1.

    The chance that any of them falls below alpha without a real difference is at most alpha, however they depend on
    each other.
    """
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, k in enumerate(order):
        highest = max(highest, min(1.0, ps[k] * (len(ps) - rank)))
        adjusted[k] = highest
    return adjusted


def judged(numbers: Comparison, p: float | None, *, alpha: float = ALPHA, difference_min: float = 0.0) -> Verdict:
    """Better or worse where chance seldom does it (`p`, corrected, is below `alpha`) and the whole interval says so.

    With a smallest difference that matters, the interval's end next to 0 must reach it; a difference that is real but
    too small to matter is no evidence of a better model.
    """
    if p is None or numbers.difference is None or p >= alpha or numbers.difference == 0:
        return Verdict.NOT_ENOUGH_EVIDENCE
    if difference_min > 0:
        near = _near_end(numbers)
        if near is None or near < difference_min:
            return Verdict.NOT_ENOUGH_EVIDENCE
    return Verdict.BETTER if numbers.difference > 0 else Verdict.WORSE


def power(spread: float, difference: float, n: int, *, alpha: float = ALPHA) -> float | None:
    """Chance that a two-sided paired test at `alpha` finds a difference with `n` rows, by the normal approximation.

    Args:
        spread: standard deviation of the rows' differences, above 0; else the answer is None, as below n = 2.
        difference: the difference of means that is to be found.
    """
    if n < N_MIN or spread <= 0 or difference == 0:
        return None
    shift = abs(difference) / spread * math.sqrt(n)
    edge = NormalDist().inv_cdf(1 - alpha / 2)
    return NormalDist().cdf(shift - edge) + NormalDist().cdf(-shift - edge)


def rows_needed(
    spread: float, difference: float, *, alpha: float = ALPHA, power_wanted: float = POWER_WANTED
) -> int | None:
    """Rows with which such a test finds the difference with the chance wanted; None where nobody has as many."""
    if spread <= 0 or difference == 0:
        return None
    normal = NormalDist()
    total = normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power_wanted)
    rows = (total * spread / abs(difference)) ** 2
    return max(N_MIN, math.ceil(rows)) if rows <= ROWS_MAX else None


def _near_end(numbers: Comparison) -> float | None:
    """How far the end of the interval that is next to 0 lies on the difference's side."""
    if numbers.interval is None or numbers.difference is None:
        return None
    return numbers.interval.low if numbers.difference > 0 else -numbers.interval.high
