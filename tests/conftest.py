"""Fixtures that all tiers share: real servers, made once per session, fresh data per test."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from feinschliff.artifacts.s3 import S3Store
from feinschliff.cli.embedded_s3 import start_s3
from feinschliff.lm.threads import share_cores
from tests.support import ports
from tests.support.databases import copy_on_sqlite
from tests.support.longest import place_of
from tests.support.postgres import Postgres, start_postgres
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Outage, S3Server
from tests.support.tiny_model import make_tiny_model

settings.register_profile("shared-machine", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("shared-machine")
share_cores()  # before any test imports torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--no-loadscope-reorder`, workers begin files in this order; without it, those with the most tests."""
    items.sort(key=lambda item: place_of(item.nodeid.partition("::")[0]))


def pytest_collection_finish() -> None:
    """What was imported stays, so no collection need walk through it: torch alone makes one take 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real SeaweedFS for the whole session."""
    port = ports.free_port()
    running = start_s3(tmp_path_factory.mktemp("s3"), port=port, access_key=ACCESS_KEY, secret_key=SECRET_KEY)
    yield S3Server(running.endpoint)
    running.stop()


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[str]:
    """An empty bucket of the session's server."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.store(bucket)
    yield bucket
    s3_server.drop_bucket(bucket)


@pytest.fixture
def s3_store(s3_server: S3Server, s3_bucket: str) -> S3Store:
    """A store on an empty bucket."""
    return s3_server.store(s3_bucket)


@pytest.fixture
def s3_outage(tmp_path: Path) -> Iterator[S3Outage]:
    """A private, running server: `.stop()`, `.start()`, `.kill()`, `.freeze()`, `.thaw()`."""
    outage = S3Outage(tmp_path / "s3-outage")
    outage.start()
    yield outage
    outage.thaw()
    outage.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL for the whole session."""
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture
def tables_of() -> str:
    """The room whose tables a test's database has at first; none unless its folder or file says so."""
    return ""


@pytest.fixture
def postgres_url(postgres: Postgres, tables_of: str) -> Iterator[str]:
    """SQLAlchemy URL of a database without rows."""
    database = postgres.lend(tables_of)
    yield postgres.url(database)
    postgres.take_back(database, tables_of)


@pytest.fixture(scope="session")
def sqlite_templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def sqlite_url(sqlite_templates: Path, tables_of: str, tmp_path: Path) -> str:
    """The same on SQLite."""
    path = tmp_path / "test.db"
    if tables_of:
        copy_on_sqlite(path, tables_of, sqlite_templates)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLAlchemy URL of a database without rows, once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives another free loopback port at every call."""
    return ports.free_port


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model's folder; its base URI is `file:<folder>`. Read only."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-chat")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on, or changes, the settings of the machine it runs on."""
    for name in [name for name in os.environ if name.startswith("FEINSCHLIFF_")]:
        monkeypatch.delenv(name)
