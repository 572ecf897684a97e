"""What several answers to the same rows say: pass@k, pass^k, and one value per row; all pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import comb
from typing import NamedTuple


class Passes(NamedTuple):
    """By k: the chance that one of k answers to a row passes, and that all of them do."""

    at: Mapping[int, float]
    all: Mapping[int, float]


NONE = Passes({}, {})


def passes_by_k(by_row: Iterable[Sequence[bool]]) -> Passes:
    """Unbiased estimates (Chen et al. 2021, eq. 1: 1 - C(n-c, k) / C(n, k); for all of k: C(c, k) / C(n, k)).

    Args:
        by_row: of each row, which of its graded answers pass. A row counts for every k that it has answers for.
    """
    rows = [(len(row), sum(row)) for row in by_row if row]
    most = max((n for n, _ in rows), default=0)
    if most < 2:
        return NONE
    ks = sorted({*(2**e for e in range(most.bit_length()) if 2**e <= most), most})
    at, all_ = {}, {}
    for k in ks:
        enough = [(n, passed) for n, passed in rows if n >= k]
        at[k] = sum(1 - comb(n - passed, k) / comb(n, k) for n, passed in enough) / len(enough)
        all_[k] = sum(comb(passed, k) / comb(n, k) for n, passed in enough) / len(enough)
    return Passes(at, all_)


def mean_by_line(values: Iterable[tuple[int, float | None]]) -> dict[int, float | None]:
    """One value per row: the mean of its answers that could be graded; None where none could."""
    by_line: dict[int, list[float]] = {}
    for line, value in values:
        graded = by_line.setdefault(line, [])
        if value is not None:
            graded.append(value)
    return {line: sum(graded) / len(graded) if graded else None for line, graded in by_line.items()}
