"""Alembic's entry to the tables of evaluation."""

from feinschliff.evaluation import (  # their tables are in METADATA too
    calibration_store,
    gate_store,
    optimization_store,
    prompt_store,
    row_store,
)
from feinschliff.evaluation.store import METADATA
from feinschliff.kit.db import run_env

OTHERS = {
    calibration_store.CALIBRATIONS,
    gate_store.GATES,
    optimization_store.OPTIMIZATIONS,
    prompt_store.PROMPTS,
    row_store.ROWS,
}
assert {*METADATA.tables.values()} >= OTHERS
run_env(METADATA)
