"""What of a workload's environment a process may take over after its start."""

from __future__ import annotations

import pytest

from feinschliff.lm.allocator import ALLOCATOR
from feinschliff.workloads.environment import environment, lasting


def test_the_later_one_counts_and_ours_is_passed_on_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("OF_THE_SERVICE", "1")
    found = environment({"A": "1", "B": "1"}, {"B": "2"})
    assert (found["TZ"], found["A"], found["B"]) == ("UTC", "1", "2")
    assert "OF_THE_SERVICE" not in found


def test_our_settings_and_the_trace_may_change_after_a_start_and_nothing_else() -> None:
    fixed = {**ALLOCATOR, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": "/srv", "TZ": "UTC"}
    assert lasting({**fixed, "FEINSCHLIFF_ATTEMPT_TOKEN": "secret", "TRACEPARENT": "00-1"}) == fixed
