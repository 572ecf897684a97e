"""How many Python graders run at once where nobody says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from feinschliff.evaluation.grading.sandboxed import processors, workers_for


@pytest.mark.parametrize(("seen", "workers"), [(0.5, 2), (1, 2), (3, 3), (3.6, 4), (64, 8)])
def test_there_are_as_many_workers_as_processors_within_bounds(seen: float, workers: int) -> None:
    assert workers_for(seen) == workers


@pytest.mark.parametrize(
    ("quota", "most"), [("50000 100000", 0.5), ("max 100000", None), ("99900000 100000", None), ("?", None)]
)
def test_a_containers_share_counts_and_never_more_than_it_sees(tmp_path: Path, quota: str, most: float | None) -> None:
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    file = tmp_path / "cpu.max"
    assert processors(file) == seen
    file.write_text(quota + "\n")
    assert processors(file) == (seen if most is None else most)
