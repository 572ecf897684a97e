"""When training stops early, as a table."""

from __future__ import annotations

import pytest

from feinschliff.formats.recipe import Validation
from feinschliff.trainer.stopping import Standing


def stop_after(losses: list[float], *, patience: int, minimum_gain: float = 0.0) -> tuple[int, int]:
    """How many measurements were made, and after which one the weights were best; both from 1."""
    settings, standing = Validation(patience=patience, minimum_gain=minimum_gain), Standing()
    for step, loss in enumerate(losses, start=1):
        standing = standing.after(loss, step=step, minimum_gain=minimum_gain)
        if standing.is_exhausted(settings):
            return step, standing.best_step
    return len(losses), standing.best_step


@pytest.mark.parametrize(
    ("losses", "patience", "minimum_gain", "stops_after", "best"),
    [
        ([3, 2, 1], 1, 0.0, 3, 3),
        ([3, 4, 1], 1, 0.0, 2, 1),
        ([3, 4, 2, 3, 3, 1], 2, 0.0, 5, 3),
        ([3, 3, 3, 3], 3, 0.0, 4, 1),
        ([3, 4, 5, 6, 7], 0, 0.0, 5, 1),
        ([3.0, 2.9, 2.8, 2.7], 2, 0.5, 3, 3),
        ([3.0, 2.5, 2.0], 1, 0.5, 3, 3),
        ([3.0, 2.9, 2.4, 2.3, 2.2], 2, 0.5, 5, 5),
    ],
)
def test_patience_counts_measurements_without_gain(
    losses: list[float], patience: int, minimum_gain: float, stops_after: int, best: int
) -> None:
    assert stop_after(losses, patience=patience, minimum_gain=minimum_gain) == (stops_after, best)


def test_small_gains_add_up_to_one() -> None:
    standing = Standing()
    for step, loss in enumerate((3.0, 2.7, 2.4), start=1):
        standing = standing.after(loss, step=step, minimum_gain=0.5)

    assert standing.reference_loss == 2.4
    assert standing.without_gain == 0
