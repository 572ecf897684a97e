"""How many epochs and which batch the amount of data asks for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.formats.auto import batch_size_for, epochs_for


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [(1, 25), (4, 25), (10, 10), (20, 5), (33, 3), (34, 3), (100, 3), (8333, 3), (8334, 2), (25_000, 1), (10**7, 1)],
)
def test_epochs_follow_the_published_rule(rows: int, epochs: int) -> None:
    assert epochs_for(rows) == epochs


@settings(deadline=None)
@given(st.integers(1, 10**9))
def test_auto_is_always_in_range_and_leaves_four_steps_an_epoch(rows: int) -> None:
    assert 1 <= epochs_for(rows) <= 25
    batch = batch_size_for(rows)
    assert 1 <= batch <= 8
    assert batch == 1 or rows // batch >= 4
