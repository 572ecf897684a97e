"""A row's split depends on its content and the seed alone."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.ingestion.split import Divider, Split, checked_split
from feinschliff.kit.errors import Invalid


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def division(split: Split, rows: range) -> dict[int, str]:
    divider = Divider(split)
    return {row: divider.split_of(digest(row)) for row in rows}


@given(st.integers(0, 2**63 - 1), st.integers(1, 60), st.integers(0, 60))
def test_row_stays_when_rows_are_added(seed: int, rows: int, more: int) -> None:
    split = Split(0.6, 0.3, 0.1, seed)
    before, after = division(split, range(rows)), division(split, range(rows + more))
    assert {row: after[row] for row in before} == before


@given(st.floats(0, 1), st.integers(-(2**63), 2**63 - 1))
def test_row_that_leaves_train_never_comes_back_as_the_share_falls(share: float, seed: int) -> None:
    smaller = share / 2
    large = division(Split(share, 1 - share, 0, seed), range(50))
    small = division(Split(smaller, 1 - smaller, 0, seed), range(50))
    assert all(large[row] == "train" for row in small if small[row] == "train")


def test_shares_are_met() -> None:
    counts = {"train": 0, "validation": 0, "test": 0}
    for name in division(Split(0.8, 0.15, 0.05), range(20_000)).values():
        counts[name] += 1
    assert counts["train"] == pytest.approx(16_000, abs=300)
    assert counts["validation"] == pytest.approx(3_000, abs=200)
    assert counts["test"] == pytest.approx(1_000, abs=150)


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_whole_share_takes_every_row(name: str) -> None:
    split = Split(float(name == "train"), float(name == "validation"), float(name == "test"))
    assert set(division(split, range(500)).values()) == {name}


def test_seeds_divide_differently() -> None:
    assert division(Split(0.5, 0.5, seed=1), range(100)) != division(Split(0.5, 0.5, seed=2), range(100))


def test_division_is_fixed_for_all_time() -> None:
    names = division(Split(0.7, 0.3), range(40))
    assert [row for row, name in names.items() if name == "validation"] == [1, 12, 16, 22, 23, 31]


@pytest.mark.parametrize("shares", [(0.9, 0.2, 0.0), (0.5, 0.0, 0.0), (-0.1, 1.1, 0.0), (float("nan"), 1.0, 0.0)])
def test_shares_that_make_no_whole_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(Invalid) as caught:
        checked_split(Split(*shares))
    assert caught.value.reason == "SPLIT_INVALID"
    assert all(field.field.startswith("split.") for field in caught.value.fields)
