"""What one grader's values over one run say: a mean, and an interval that knows which values are no news; pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from feinschliff.evaluation.statistics.clusters import clustered_interval, gather
from feinschliff.evaluation.statistics.intervals import CONFIDENCE, N_MIN, Interval, Method, mean_interval, wilson

UNIT = Interval(0.0, 1.0)


class Summary(NamedTuple):
    """One grader over one run. `mean` is None at n = 0, `interval` below 2 clusters; `note` then says so.

    `clusters` is how many of the `n` values are no repetition of each other; `n` where all are.
    """

    n: int
    ungradable: int
    mean: float | None
    interval: Interval | None
    method: Method
    note: str
    clusters: int = 0


def summarise(
    grades: Sequence[float | None],
    *,
    is_binary: bool,
    confidence: float = CONFIDENCE,
    keys: Sequence[Hashable] | None = None,
) -> Summary:
    """Mean and interval of one grader's values: Wilson for 0/1 grades, a BCa bootstrap for others.

    Args:
        keys: of each value, what it is drawn with: values of one key repeat each other, and the bootstrap then draws
            keys. None, or all different: each value is drawn by itself.
    """
    given = [(grade, key) for grade, key in zip(grades, keys or range(len(grades)), strict=True) if grade is not None]
    values = [value for value, _ in given]
    n, clusters, ungradable = len(values), len({key for _, key in given}), len(grades) - len(values)
    mean = math.fsum(values) / n if n else None
    if clusters < N_MIN:
        what = f"n = {n}" if clusters == n else f"{n} answers to one row"
        note = f"{what}: no interval below n = {N_MIN}"
        return Summary(n, ungradable, mean, None, Method.NONE, note, clusters)
    if clusters < n:
        together = gather(values, [key for _, key in given])
        interval, method = clustered_interval(together, within=UNIT, confidence=confidence)
    elif is_binary:
        interval, method = wilson(round(math.fsum(values)), n, confidence=confidence), Method.WILSON
    else:
        interval, method = mean_interval(values, within=UNIT, confidence=confidence)
    return Summary(n, ungradable, mean, interval, method, "", clusters)
