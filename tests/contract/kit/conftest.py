"""The small room's database, on SQLite and on PostgreSQL."""

from collections.abc import Iterator

import pytest

from feinschliff.kit.db import Database
from tests.contract.kit.small_room.store import MIGRATIONS, ROOM


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Migrated and empty."""
    opened = Database(database_url, ROOM, migrations=MIGRATIONS, busy_timeout_seconds=5)
    opened.upgrade()
    yield opened
    opened.close()
