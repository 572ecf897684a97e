"""Alembic's entry to the tables of inference."""

from feinschliff.inference.store import METADATA
from feinschliff.kit.db import run_env

run_env(METADATA)
