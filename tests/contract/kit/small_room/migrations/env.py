"""Alembic's entry for the small room."""

from feinschliff.kit.db import run_env
from tests.contract.kit.small_room.store import METADATA

run_env(METADATA)
