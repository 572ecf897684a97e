"""One database per room, SQLite or PostgreSQL, in short transactions."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc as sa_exc
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from feinschliff.kit.db import migrate
from feinschliff.kit.db.columns import metadata_for
from feinschliff.kit.db.engine import BUSY_TIMEOUT_SECONDS, engine_for, reading_engine
from feinschliff.kit.db.migrate import Moved
from feinschliff.kit.db.outages import outages
from feinschliff.kit.errors import WrongState


class Database:
    """A room's tables, each named `<room>_<noun>`, on SQLite or PostgreSQL.

    SQLite runs in WAL mode, so readers never wait; a transaction takes the write lock at its first statement, so it
    never fails half-way because of another writer. What is committed survives kill -9 and power loss (synchronous=FULL:
    0.6 ms a commit, 0.2 ms without).
    """

    def __init__(
        self, url: str, room: str, *, migrations: str = "", busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> None:
        """Opens nothing yet.

        Args:
            migrations: package of the room's migrations; `feinschliff.<room>.migrations` if empty.
            busy_timeout_seconds: how long a writer waits for another one on SQLite.
        """
        self.room = room
        self.engine = engine_for(url, busy_timeout_seconds)
        self._migrations = migrations or f"feinschliff.{room}.migrations"
        self._reading = reading_engine(self.engine)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        wrong = [name for name in metadata_for(room).tables if not name.startswith(f"{room}_")]
        if wrong:
            raise ValueError(f"tables of {room} must be named {room}_<noun>: {wrong}")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits at the end of the block and rolls back if it raises; keep it short.

        Raises:
            Unavailable: DATABASE_UNAVAILABLE.
            Conflict: WRITE_CONFLICT, ROW_CHANGED.
        """
        with outages(), self._sessions.begin() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads: one consistent view, and it never waits for a writer."""
        with outages(), self._sessions(bind=self._reading) as session:
            yield session

    def upgrade(self) -> Moved:
        """Brings the tables to this version; safe when several processes do it at once.

        Raises:
            Unavailable: DATABASE_UNAVAILABLE.
            WrongState: SCHEMA_AHEAD where a newer version migrated them; MIGRATION_FAILED where the database refuses,
                such as for want of a right; then nothing has changed.
        """
        try:
            with outages():
                return migrate.upgrade(self.engine, self.room, self._migrations)
        except sa_exc.DBAPIError as error:
            why = str(error.orig).strip().partition("\n")[0]
            message = f"The tables of {self.room} cannot be migrated, and stay as they were: {why}"
            raise WrongState("MIGRATION_FAILED", message, room=self.room) from error

    def verify(self) -> None:
        """Raises WrongState SCHEMA_BEHIND or SCHEMA_AHEAD unless the tables are those of this version."""
        with outages():
            migrate.verify(self.engine, self.room, self._migrations)

    def check(self) -> None:
        """Readiness: raises Unavailable unless the database answers."""
        with outages(), self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()
