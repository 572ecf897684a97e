"""Alembic's entry for the tables of ingestion, those of the completion log among them."""

from feinschliff.ingestion.completion_store import COMPLETIONS
from feinschliff.kit.db import run_env

run_env(COMPLETIONS.metadata)
