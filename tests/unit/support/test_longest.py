"""Files that begin first are files that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.longest import LONGEST, place_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", LONGEST)
def test_a_file_that_begins_first_is_there(name: str) -> None:
    assert (ROOT / name).is_file()


def test_they_begin_in_their_order_and_before_all_others() -> None:
    assert sorted(["other", "b", "another", "a"], key=lambda name: place_of(name, ("a", "b"))) == [
        "a",
        "b",
        "other",
        "another",
    ]
