"""Alembic's entry to the tables of training."""

from feinschliff.kit.db import run_env
from feinschliff.training.store import METADATA

run_env(METADATA)
