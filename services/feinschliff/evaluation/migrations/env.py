"""Alembic's entry to the tables of evaluation."""

from feinschliff.evaluation.store import METADATA
from feinschliff.kit.db import run_env

run_env(METADATA)
