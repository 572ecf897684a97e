"""Alembic's entry for the tables of ingestion."""

from feinschliff.ingestion.store import METADATA
from feinschliff.kit.db import run_env

run_env(METADATA)
