"""A job on the tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.trainer import Workshop, rows

MakeWorkshop = Callable[..., Workshop]


@pytest.fixture
def workshop(tmp_path: Path, tiny_model: Path) -> MakeWorkshop:
    """Makes jobs with 18 training rows (5 steps an epoch), 4 validation rows and three epochs."""
    made = 0

    def make(**recipe: object) -> Workshop:
        nonlocal made
        made += 1
        one = Workshop(tmp_path / f"job-{made}", tiny_model, train=rows(18), validation=rows(4, first=50))
        one.recipe = {
            "optimisation": {"epochs": 3, "batch_size": 4, "learning_rate": 5e-3, "warmup_fraction": 0.1},
            "checkpointing": {"every_steps": 2},
            **recipe,
        }
        return one

    return make
