"""Hyperparameters that follow from the amount of data: one rule for every door through which a job comes."""

from __future__ import annotations

EPOCHS, EXAMPLES_MIN, EXAMPLES_MAX, EPOCHS_MAX = 3, 100, 25_000, 25
BATCH_ROWS, STEPS_PER_EPOCH_MIN = 8, 4

EPOCHS_RULE = (
    f"{EPOCHS}; below {EXAMPLES_MIN} examples in all epochs enough to reach {EXAMPLES_MIN}, at most {EPOCHS_MAX}; "
    f"above {EXAMPLES_MAX} fewer, at least 1 (the rule that OpenAI's fine-tuning guide gives for `auto`)."
)
BATCH_RULE = f"{BATCH_ROWS} rows, but never so many that an epoch has fewer than {STEPS_PER_EPOCH_MIN} steps."

ADVISED_ADAPTER_RATES = (1e-4, 2e-4)
"""Good rates for low-rank adapters (Dettmers et al. 2023, arXiv:2305.14314, table 9)."""


def epochs_for(rows: int) -> int:
    """Args: rows: that an epoch learns from."""
    if rows * EPOCHS < EXAMPLES_MIN:
        return min(EPOCHS_MAX, EXAMPLES_MIN // max(rows, 1))
    if rows * EPOCHS > EXAMPLES_MAX:
        return max(1, EXAMPLES_MAX // rows)
    return EPOCHS


def batch_size_for(rows: int) -> int:
    """Args: rows: that an epoch learns from."""
    return max(1, min(BATCH_ROWS, rows // STEPS_PER_EPOCH_MIN))
