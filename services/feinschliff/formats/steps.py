"""How many optimiser steps a recipe's epochs are: one rule for the trainer and for who plans its work."""

from __future__ import annotations

import math

from feinschliff.formats.optimisation import Optimisation


def rows_drawn(rows: int, weight: float) -> int:
    """Rows that a source of so many rows gives in each epoch."""
    return round(rows * weight)


def steps_of(rows_per_epoch: int, optimisation: Optimisation) -> int:
    """Steps in all; the last step of an epoch may be short, and there is always one."""
    steps = max(1, math.ceil(optimisation.epochs * math.ceil(rows_per_epoch / optimisation.batch_size)))
    return min(steps, optimisation.steps_max) if optimisation.steps_max else steps
