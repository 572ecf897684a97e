"""Alembic's entry to the tables of evaluation."""

from feinschliff.evaluation.gates import store as gate_store
from feinschliff.evaluation.judges import store as calibration_store
from feinschliff.evaluation.optimization import store as optimization_store
from feinschliff.evaluation.prompts import store as prompt_store
from feinschliff.evaluation.runs import row_store
from feinschliff.evaluation.store import METADATA
from feinschliff.evaluation.work import measured_store
from feinschliff.kit.db import run_env

OTHERS = {
    calibration_store.CALIBRATIONS,
    gate_store.GATES,
    optimization_store.OPTIMIZATIONS,
    prompt_store.PROMPTS,
    row_store.ROWS,
    measured_store.MEASURED,
}
assert {*METADATA.tables.values()} >= OTHERS
run_env(METADATA)
