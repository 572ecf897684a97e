"""Connections: how SQLite and PostgreSQL must be opened so that both keep the same promises."""

import sqlite3
import time
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from feinschliff.kit.errors import StartError

BUSY_TIMEOUT_SECONDS = 10.0
SWITCH_SECONDS = 0.01  # between two tries to make a new file write ahead
POOL_SIZE, POOL_OVERFLOW = 5, 10  # x 5 rooms stays below PostgreSQL's usual 100 connections
FILE_POOL_SIZE, FILE_POOL_OVERFLOW = 8, 56  # a connection to a file costs little; threads should never wait for one
POOL_TIMEOUT_SECONDS = 10
READ_ONLY = "feinschliff_read_only"
_SETTING = "FEINSCHLIFF_DATABASE_URL"


def engine_for(address: str, busy_timeout_seconds: float) -> Engine:
    """An engine for `sqlite:///path` or `postgresql://...`; connects when first used.

    Raises:
        StartError: any other address.
    """
    try:
        url = make_url(address)
    except ArgumentError:
        raise StartError([f"{_SETTING}: not an SQLAlchemy URL"]) from None
    match url.get_backend_name():
        case "sqlite":
            return _sqlite_engine(url, busy_timeout_seconds)
        case "postgresql":
            return _postgresql_engine(url)
        case other:
            raise StartError([f"{_SETTING}: {other} is neither sqlite nor postgresql"])


def reading_engine(engine: Engine) -> Engine:
    """The same connections, in transactions that see one moment and refuse to write."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{READ_ONLY: True})
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _postgresql_engine(url: URL) -> Engine:
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        connect_args={"connect_timeout": 5},
    )


def _sqlite_engine(url: URL, busy_timeout_seconds: float) -> Engine:
    if not url.database or url.database == ":memory:":
        raise StartError([f"{_SETTING}: SQLite needs a file; threads do not share a database in memory"])
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=FILE_POOL_SIZE,
        max_overflow=FILE_POOL_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        connect_args={"timeout": busy_timeout_seconds, "check_same_thread": False},
    )
    event.listen(engine, "connect", partial(_prepare_sqlite, busy_timeout_seconds))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(busy_timeout_seconds: float, connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we send BEGIN ourselves
    cursor = connection.cursor()
    _write_ahead(cursor, busy_timeout_seconds)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _write_ahead(cursor: DBAPICursor, busy_timeout_seconds: float) -> None:
    """The first switch of a new file is refused at once while another connection makes it; no busy time-out helps."""
    until = time.monotonic() + busy_timeout_seconds
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(SWITCH_SECONDS)


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if reads else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
