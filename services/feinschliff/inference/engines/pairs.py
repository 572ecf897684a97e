"""Low-rank pairs of a batch in which every row has its own, gathered row by row: many adapters cost what one costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from feinschliff.inference.engines.parts import Adapter, LinearPart

Addresses = npt.NDArray[np.int64]


class _Table(NamedTuple):
    """Of one adapter, or of one batch: (places,), or (places, B)."""

    a: Addresses
    b: Addresses
    ranks: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float32]


class Gathered(NamedTuple):
    """Where the pairs of a batch lie at one place, or from the first place on, as the kernels take them."""

    a: int
    b: int
    ranks: int
    scales: int
    low: int
    rank_max: int


class PairTables:
    """The pairs of all adapters beside one model, by place; a row without an adapter has rank 0."""

    def __init__(self, places: Sequence[str]) -> None:
        self._places = {place: number for number, place in enumerate(places)}
        self._none = self._table({})
        self._known: dict[str, _Table] = {}
        self._batch = self._none
        self._gathered: list[Gathered] = []
        self._low = np.empty((0, 0), np.float32)

    def add(self, digest: str, adapter: Adapter) -> None:
        pairs = {place: part for place, part in adapter.parts.items() if isinstance(part, LinearPart) and part.pair}
        if pairs:
            self._known[digest] = self._table(pairs)

    def remove(self, digest: str) -> None:
        self._known.pop(digest, None)

    def select(self, rows: Sequence[str]) -> None:
        """From now on row i has the pairs of `rows[i]`."""
        if not any(row in self._known for row in rows):
            self._gathered = []
            return
        tables = [self._known.get(row, self._none) for row in rows]
        self._batch = _Table(
            *(np.ascontiguousarray(np.stack(columns, axis=1)) for columns in zip(*tables, strict=True))
        )
        starts = [(array.ctypes.data, array.strides[0]) for array in self._batch]
        rank_max = int(self._batch.ranks.max())
        self._low = np.empty((len(rows), rank_max), np.float32)
        used: list[bool] = np.any(self._batch.ranks, axis=1).tolist()
        a, b, ranks, scales = ([start + place * stride for place in range(len(used))] for start, stride in starts)
        self._gathered = [
            Gathered(a[place], b[place], ranks[place], scales[place], self._low.ctypes.data, rank_max)
            if is_used or not place  # the first says where all lie
            else _NOTHING
            for place, is_used in enumerate(used)
        ]

    @property
    def all(self) -> Gathered | None:
        """The pairs of the selected rows at all places, (places, rows); None where no row has any."""
        return self._gathered[0] if self._gathered else None

    def at(self, number: int) -> Gathered | None:
        """What lies at a place for the selected rows; None where no row has a pair."""
        if not self._gathered or self._gathered[number] is _NOTHING:
            return None
        return self._gathered[number]

    def _table(self, parts: Mapping[str, LinearPart]) -> _Table:
        count = len(self._places)
        table = _Table(
            np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.float32)
        )
        for place, part in parts.items():
            number, pair = self._places[place], part.pair
            assert pair is not None
            table.a[number], table.b[number] = pair.a_RI.data_ptr(), pair.b_RO.data_ptr()
            table.ranks[number], table.scales[number] = pair.a_RI.shape[0], pair.scale
        return table


_NOTHING = Gathered(0, 0, 0, 0, 0, 0)
