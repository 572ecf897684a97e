"""Alembic's entry to the tables of the registry."""

from feinschliff.kit.db import run_env
from feinschliff.registry.store import METADATA

run_env(METADATA)
