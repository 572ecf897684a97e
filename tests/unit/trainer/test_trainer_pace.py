"""Speed and time to go, from the last steps."""

from __future__ import annotations

import pytest

from feinschliff.trainer.pace import WINDOW_STEPS, Pace


def test_nothing_is_known_before_the_first_step() -> None:
    assert Pace().tokens_per_second == 0
    assert Pace().eta_seconds(10) is None


def test_the_slow_first_step_counts_until_there_is_a_second() -> None:
    pace = Pace()
    pace.add(tokens=100, seconds=10)
    assert pace.tokens_per_second == pytest.approx(10)
    pace.add(tokens=100, seconds=1)

    assert pace.tokens_per_second == pytest.approx(100)
    assert pace.eta_seconds(5) == pytest.approx(5)


def test_old_steps_are_forgotten() -> None:
    pace = Pace()
    for seconds in [9.0] * 5 + [2.0] * WINDOW_STEPS:
        pace.add(tokens=10, seconds=seconds)

    assert pace.tokens_per_second == pytest.approx(5)
