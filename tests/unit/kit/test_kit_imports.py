"""Imports of large libraries are not interrupted by collections, and whatever happens in them, collections go on."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from feinschliff.kit import imports


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    gc.enable()


def test_no_garbage_is_looked_for_meanwhile() -> None:
    with imports.uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_import_that_fails_leaves_collections_on() -> None:
    with pytest.raises(ImportError), imports.uncollected():
        import feinschliff.nowhere  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()


def test_where_collections_are_off_they_stay_off() -> None:
    gc.disable()
    with imports.uncollected():
        pass
    assert not gc.isenabled()
