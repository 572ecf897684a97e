"""The program that migrates every room before any of them starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from feinschliff.cli.settings import SERVICES
from feinschliff.kit.db import Database
from tests.support import forked
from tests.support.postgres import Postgres
from tests.support.relay import relay
from tests.support.s3 import S3Server

ROOT = Path(__file__).parents[2]
MODULE = "feinschliff.cli.migrate"
# What the image that runs it has not got.
WITHOUT = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"typer", "rich", "click", "torch", "transformers", "opentelemetry"}:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
runpy.run_module("feinschliff.cli.migrate", run_name="__main__")
"""
SECONDS_MAX = 90
Program = subprocess.Popen[str]
Ended = tuple[int, list[str], str]
"""Exit code, lines on stdout, stderr."""


class Migration:
    """Starts the program for one database, with nobody at the address of S3 unless a test says where it is."""

    def __init__(self, folder: Path, s3_port: int) -> None:
        self._folder = folder
        self._s3_port = s3_port

    def start(self, url: str, *command: str) -> Program:
        """As a program that imports all by itself."""
        return subprocess.Popen(
            [sys.executable, *(command or ("-m", MODULE))],
            env=self._environment(url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, url: str, **environment: str) -> Ended:
        told = self._environment(url) | environment
        done = forked.run(MODULE, environment=told, timeout_seconds=SECONDS_MAX)
        return done.returncode, done.stdout.splitlines(), done.stderr

    def _environment(self, url: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FEINSCHLIFF_")}
        own = {
            "PYTHONPATH": str(ROOT / "services"),
            "FEINSCHLIFF_HOME": str(self._folder),
            "FEINSCHLIFF_DATABASE_URL": url,
            "FEINSCHLIFF_S3_ENDPOINT": f"http://127.0.0.1:{self._s3_port}",
        }
        return clean | own


def ended(program: Program) -> Ended:
    output, errors = program.communicate(timeout=SECONDS_MAX)
    return program.returncode, output.splitlines(), errors


@pytest.fixture
def migration(tmp_path: Path, free_port: Callable[[], int]) -> Migration:
    return Migration(tmp_path / "home", free_port())


def heads(lines: list[str]) -> dict[str, tuple[str, str]]:
    """By room, from where to where."""
    moves = [line.split(": ") for line in lines if " -> " in line]
    return {room: (move.split(" -> ")[0], move.split(" -> ")[1]) for room, move in moves}


def test_every_room_is_migrated_and_a_second_run_finds_nothing_to_do(migration: Migration, database_url: str) -> None:
    code, lines, errors = migration.run(database_url)
    assert code == 0, errors
    moved = heads(lines)
    assert list(moved) == list(SERVICES)
    assert {before for before, _ in moved.values()} == {"empty"}
    for room in SERVICES:
        database = Database(database_url, room)
        database.verify()
        database.close()
    code, lines, _ = migration.run(database_url)
    assert code == 0
    assert heads(lines) == {room: (head, head) for room, (_, head) in moved.items()}


def test_it_needs_no_terminal_and_no_torch(migration: Migration, tmp_path: Path) -> None:
    code, lines, errors = ended(migration.start(f"sqlite:///{tmp_path / 'a.db'}", "-c", WITHOUT))
    assert code == 0, errors
    assert list(heads(lines)) == list(SERVICES)


def test_several_at_once_migrate_each_room_once(migration: Migration, database_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(migration.run, [database_url] * 4))
    assert [code for code, _, _ in results] == [0] * 4, [errors for _, _, errors in results]
    for room in SERVICES:
        assert sum(heads(lines)[room][0] == "empty" for _, lines, _ in results) == 1


def test_it_waits_for_a_database_that_comes_later(
    migration: Migration, postgres: Postgres, postgres_url: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    program = migration.start(postgres_url.replace(f":{postgres.port}/", f":{port}/"))
    assert program.stderr is not None
    assert program.stderr.readline().startswith("waiting up to 1")
    with relay(postgres.port, port=port):
        code, lines, errors = ended(program)
    assert code == 0, errors
    assert list(heads(lines)) == list(SERVICES)


def test_a_database_that_does_not_come_ends_the_wait_with_1_and_the_drivers_words(
    migration: Migration, free_port: Callable[[], int]
) -> None:
    url = f"postgresql://user:hunter2@127.0.0.1:{free_port()}/feinschliff"
    code, lines, errors = migration.run(url, FEINSCHLIFF_MIGRATE_WAIT_SECONDS="0.5")
    assert (code, lines) == (1, [])
    last = errors.splitlines()[-1]
    assert last.startswith("DATABASE_UNAVAILABLE: ingestion: no answer in time: ")
    assert "Connection refused" in last
    assert "hunter2" not in errors


def test_tables_of_a_newer_version_are_left_alone(migration: Migration, database_url: str) -> None:
    migration.run(database_url)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE registry_alembic_version SET version_num = '9999'"))
    engine.dispose()
    code, lines, errors = migration.run(database_url)
    assert code == 1
    assert list(heads(lines)) == ["ingestion", "training", "evaluation"]
    assert errors.startswith("SCHEMA_AHEAD: The tables of registry are at migration 9999")


def test_a_role_without_rights_is_told_in_the_databases_words(
    migration: Migration, postgres: Postgres, postgres_url: str
) -> None:
    database = postgres_url.rpartition("/")[2]
    with psycopg.connect(
        f"host=127.0.0.1 port={postgres.port} user=postgres dbname={database}", autocommit=True
    ) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    code, lines, errors = migration.run(postgres_url.replace("postgres@", "reader@"))
    assert (code, lines) == (1, [])
    assert errors == (
        "MIGRATION_FAILED: The tables of ingestion cannot be migrated, and stay as they were:"
        " permission denied for schema public\n"
    )


def test_a_wrong_setting_ends_it_with_2_by_name(migration: Migration) -> None:
    code, lines, errors = migration.run("mysql://nobody", FEINSCHLIFF_MIGRATE_WAIT_SECONDS="0")
    assert (code, lines) == (2, [])
    assert errors.startswith("FEINSCHLIFF_DATABASE_URL: ")


def test_the_bucket_is_made_where_the_store_answers(
    migration: Migration, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    s3_server.client().remove_bucket(s3_bucket)
    url = f"sqlite:///{tmp_path / 'a.db'}"
    code, lines, _ = migration.run(url, **s3_server.environment(s3_bucket))
    assert (code, lines[-1]) == (0, f"bucket {s3_bucket}: there")
    assert s3_server.client().bucket_exists(s3_bucket)


def test_a_store_that_is_away_is_no_reason_to_fail(migration: Migration, tmp_path: Path) -> None:
    keys = {"FEINSCHLIFF_S3_ACCESS_KEY": "any", "FEINSCHLIFF_S3_SECRET_KEY": "any"}
    code, lines, errors = migration.run(f"sqlite:///{tmp_path / 'a.db'}", **keys)
    assert (code, len(lines)) == (0, len(SERVICES))
    assert errors.startswith("bucket feinschliff: not made yet: ")


def test_without_a_key_of_the_store_nothing_is_asked_of_it(migration: Migration, tmp_path: Path) -> None:
    code, lines, errors = migration.run(f"sqlite:///{tmp_path / 'a.db'}")
    assert (code, len(lines), errors) == (0, len(SERVICES), "")
