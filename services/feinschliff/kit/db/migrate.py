"""Alembic, one chain per room and one version table per room, safe when several processes start at once."""

import threading
import zlib
from importlib.resources import as_file, files
from typing import NamedTuple

from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, text

from feinschliff.kit.errors import WrongState

_one_at_a_time = threading.Lock()  # Alembic keeps its environment in globals


class Moved(NamedTuple):
    """From which migration to which; `before` is empty for tables that were not there."""

    before: str
    after: str


def upgrade(engine: Engine, room: str, package: str) -> Moved:
    """Runs the room's missing migrations in one transaction; a second process waits, then finds nothing to do."""
    with _one_at_a_time, as_file(files(package)) as folder, engine.connect() as connection:
        is_sqlite = engine.dialect.name == "sqlite"
        if is_sqlite:
            _set_foreign_keys(connection, on=False)  # rebuilding a table must not cascade
        try:
            with connection.begin():
                if not is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(room)})
                config = _config(str(folder), room)
                _refuse_unknown(connection, config, room)
                before = _current(connection, room)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                if is_sqlite:
                    _refuse_broken_references(connection)
                return Moved(before or "", _current(connection, room) or "")
        finally:
            if is_sqlite:
                _set_foreign_keys(connection, on=True)


def verify(engine: Engine, room: str, package: str) -> None:
    """Raises WrongState unless the database is exactly at the room's last migration."""
    with as_file(files(package)) as folder, engine.connect() as connection:
        config = _config(str(folder), room)
        _refuse_unknown(connection, config, room)
        head = ScriptDirectory.from_config(config).get_current_head()
        current = _current(connection, room)
        if current != head:
            raise WrongState(
                "SCHEMA_BEHIND",
                f"The tables of {room} are at migration {current}; this version needs {head}: run its migrations.",
                room=room,
                current=current,
                needed=head,
            )


def run_env(target: MetaData) -> None:
    """The whole body of a room's migrations/env.py."""
    config = context.config
    connection: Connection = config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=target,
        version_table=_version_table(config.attributes["room"]),
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _config(folder: str, room: str) -> Config:
    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["room"] = room
    return config


def _refuse_unknown(connection: Connection, config: Config, room: str) -> None:
    current = _current(connection, room)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise WrongState(
            "SCHEMA_AHEAD",
            f"The tables of {room} are at migration {current}, which this version does not know; run a newer version.",
            room=room,
            current=current,
        )


def _current(connection: Connection, room: str) -> str | None:
    options = {"version_table": _version_table(room)}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _version_table(room: str) -> str:
    return f"{room}_alembic_version"


def _lock_key(room: str) -> int:
    return zlib.crc32(f"feinschliff/{room}/migrations".encode())


def _set_foreign_keys(connection: Connection, *, on: bool) -> None:
    raw = connection.connection.cursor()
    raw.execute(f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")
    raw.close()


def _refuse_broken_references(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        raise RuntimeError(f"a migration broke references: {broken[:5]}")
