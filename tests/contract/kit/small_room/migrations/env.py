"""Alembic's entry for the small room."""

from tests.contract.kit.small_room.store import METADATA

from feinschliff.kit.db import run_env

run_env(METADATA)
