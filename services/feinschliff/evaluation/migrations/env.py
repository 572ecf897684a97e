"""Alembic's entry to the tables of evaluation."""

from feinschliff.evaluation import calibration_store, gate_store  # their tables are in METADATA too
from feinschliff.evaluation.store import METADATA
from feinschliff.kit.db import run_env

assert {calibration_store.CALIBRATIONS, gate_store.GATES} <= {*METADATA.tables.values()}
run_env(METADATA)
