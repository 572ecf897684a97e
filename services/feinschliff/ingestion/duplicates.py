"""Counts rows that say the same in bounded memory: exactly up to a million rows, estimated beyond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DIGEST_BYTES = 8
ROWS_MAX = 1_000_000
LINES_SHOWN_MAX = 1000


class Duplicates(NamedTuple):
    """How many rows repeat an earlier one, the lines of the first 1000 of them, and whether the count is exact."""

    rows: int
    lines: tuple[int, ...]
    exact: bool


class DuplicateCounter:
    """Keeps 8 bytes of each row's digest and its line, 12 bytes a row, for at most `rows_max` rows.

    When it is full it halves what it watches: only digests whose lowest bits are zero stay, one bit more each time
    (adaptive sampling, Flajolet 1990). Equal rows have equal digests, so all copies of a watched row are watched, and
    the count scales by the share watched. Two different rows share 64 bits with a chance of 3e-8 at 1 million rows.
    """

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self._rows_max = rows_max
        self._bits = 0
        self._rows = 0
        self._digests = np.empty(rows_max, dtype="<u8")  # memory is taken as it is filled
        self._lines = np.empty(rows_max, dtype=np.uint32)

    def add(self, digests: Sequence[bytes], lines: Sequence[int]) -> None:
        """Rows in order; each digest at least 8 bytes."""
        block = np.frombuffer(b"".join(digest[:DIGEST_BYTES] for digest in digests), dtype="<u8")
        numbers = np.minimum(np.asarray(lines, dtype=np.uint64), np.iinfo(np.uint32).max).astype(np.uint32)
        for start in range(0, len(block), self._rows_max):
            self._add(block[start : start + self._rows_max], numbers[start : start + self._rows_max])

    def result(self) -> Duplicates:
        digests, lines = self._digests[: self._rows], self._lines[: self._rows]
        order = np.argsort(digests, kind="stable")
        ordered = digests[order]
        repeats = order[1:][ordered[1:] == ordered[:-1]]
        shown = np.sort(lines[repeats])[:LINES_SHOWN_MAX]
        return Duplicates(len(repeats) << self._bits, tuple(int(line) for line in shown), self._bits == 0)

    def _add(self, block: np.ndarray, numbers: np.ndarray) -> None:
        block, numbers = self._watched(block, numbers)
        while self._rows + len(block) > self._rows_max:
            self._bits += 1
            kept, lines = self._watched(self._digests[: self._rows], self._lines[: self._rows])
            self._rows = len(kept)
            self._digests[: self._rows], self._lines[: self._rows] = kept, lines
            block, numbers = self._watched(block, numbers)
        self._digests[self._rows : self._rows + len(block)] = block
        self._lines[self._rows : self._rows + len(block)] = numbers
        self._rows += len(block)

    def _watched(self, digests: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._bits == 0:
            return digests, lines
        watched = (digests & np.uint64((1 << self._bits) - 1)) == 0
        return digests[watched], lines[watched]
