"""Reading from a store whose connections break."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from feinschliff.artifacts.store import Store
from feinschliff.ingestion.versions import chunks_of
from feinschliff.kit.errors import Unavailable


class BreakingStore:
    """Gives `steady` bytes a connection in chunks of 3, then breaks."""

    def __init__(self, data: bytes, steady: int) -> None:
        self._data = data
        self._steady = steady
        self.opened: list[int] = []

    def open(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        self.opened.append(offset)
        for place in range(offset, len(self._data), 3):
            if place + 3 - offset > self._steady:
                raise Unavailable("STORE_UNAVAILABLE", "The connection broke.")
            yield self._data[place : place + 3]


def read(store: BreakingStore, offset_bytes: int = 0) -> bytes:
    return b"".join(chunks_of(cast(Store, store), "key", offset_bytes=offset_bytes))


DATA = bytes(range(100))


@pytest.mark.parametrize("steady", [3, 10, 50, 1000])
@pytest.mark.parametrize("offset_bytes", [0, 7, 99, 100])
def test_broken_connection_loses_and_doubles_nothing(steady: int, offset_bytes: int) -> None:
    assert read(BreakingStore(DATA, steady), offset_bytes) == DATA[offset_bytes:]


def test_store_that_gives_nothing_is_given_up() -> None:
    store = BreakingStore(DATA, 0)
    with pytest.raises(Unavailable):
        read(store)
    assert store.opened == [0, 0, 0]
