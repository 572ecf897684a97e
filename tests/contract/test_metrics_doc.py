"""docs/metrics.md says what the catalogue says."""

from __future__ import annotations

from pathlib import Path

from tests.support.differences import differences
from tests.support.metrics_doc import page

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_what_the_catalogue_says() -> None:
    found = differences(PAGE.read_text("utf-8"), page())
    assert not found, f"run `python -m tests.support.metrics_doc > docs/metrics.md`:\n{found}"
