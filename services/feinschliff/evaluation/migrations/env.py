"""Alembic's entry to the tables of evaluation."""

from feinschliff.evaluation import optimization_store, prompt_store, row_store  # their tables are in METADATA too
from feinschliff.evaluation.store import METADATA
from feinschliff.kit.db import run_env

assert {optimization_store.OPTIMIZATIONS, prompt_store.PROMPTS, row_store.ROWS} <= {*METADATA.tables.values()}
run_env(METADATA)
