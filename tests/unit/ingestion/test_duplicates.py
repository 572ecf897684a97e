"""Duplicates are counted exactly while they fit, and honestly estimated beyond."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.ingestion.duplicates import LINES_SHOWN_MAX, DuplicateCounter


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def count(numbers: list[int], rows_max: int, block: int = 7) -> DuplicateCounter:
    counter = DuplicateCounter(rows_max)
    for start in range(0, len(numbers), block):
        part = numbers[start : start + block]
        counter.add([digest(number) for number in part], range(start + 1, start + 1 + len(part)))
    return counter


@given(st.lists(st.integers(0, 20), max_size=100), st.integers(1, 30))
def test_count_and_lines_are_exact_while_they_fit(numbers: list[int], block: int) -> None:
    repeats = [line for line, number in enumerate(numbers, 1) if number in numbers[: line - 1]]
    result = count(numbers, 1000, block).result()
    assert (result.rows, list(result.lines), result.exact) == (len(repeats), repeats, True)


def test_no_rows_have_no_duplicates() -> None:
    assert DuplicateCounter().result() == (0, (), True)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_estimate_is_near_when_rows_do_not_fit(share: float) -> None:
    rng = random.Random(3)
    distinct = 20_000
    numbers = list(range(distinct)) + [rng.randrange(distinct) for _ in range(int(distinct * share))]
    rng.shuffle(numbers)
    result = count(numbers, 4_000, block=512).result()
    assert not result.exact
    assert result.rows == pytest.approx(distinct * share, rel=0.25)


def test_memory_never_grows_beyond_the_bound() -> None:
    counter = count(list(range(30_000)), 1_000, block=512)
    assert len(counter._digests) <= 1_000
    assert len(counter._lines) <= 1_000


def test_shown_lines_are_bounded() -> None:
    result = count([1] * 3_000, 10_000, block=100).result()
    assert (result.rows, len(result.lines)) == (2_999, LINES_SHOWN_MAX)
    assert result.lines[:3] == (2, 3, 4)
