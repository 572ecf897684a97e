"""Both databases, for the promises that hold on each."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.contract.kit.small_room.store import MIGRATIONS, ROOM
from tests.support.postgres import Postgres, start_postgres

from feinschliff.kit.db import Database


@pytest.fixture(scope="session")
def kit_postgres() -> Iterator[Postgres]:
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database's URL, once per kind of database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/db/small.db"
        return
    server: Postgres = request.getfixturevalue("kit_postgres")
    name = f"kit_{uuid4().hex}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    """The small room's database, migrated."""
    opened = Database(empty_url, ROOM, migrations=MIGRATIONS, busy_timeout_seconds=5)
    opened.upgrade()
    yield opened
    opened.close()
