"""Brings the tables of every room to this version, before any service needs them: `python -m feinschliff.cli.migrate`.

0: all are there. 1: the database refuses or does not answer; rooms named above are migrated. 2: a wrong setting.
"""

from __future__ import annotations

import sys
import time

from feinschliff.artifacts.connect import connect
from feinschliff.cli.settings import SERVICES, MigrateSettings
from feinschliff.kit import logs
from feinschliff.kit.db import Database, Moved
from feinschliff.kit.errors import Refusal, StartError, Unavailable
from feinschliff.kit.settings import read_settings

REFUSED = 1
_RETRY_SECONDS = 1.0


def main() -> int:
    try:
        settings = read_settings(MigrateSettings)
        logs.configure("ERROR", settings.log_format)
        migrate(settings)
        if settings.s3_access_key:  # whoever was given no key has nothing to do with the store
            make_bucket(settings)
    except StartError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return error.exit_code
    except Refusal as refusal:
        print(f"{refusal.reason}: {refusal.message}", file=sys.stderr)
        return REFUSED
    return 0


def migrate(settings: MigrateSettings) -> None:
    """One room after the other, a line for each; all of them wait for the database no longer than one may.

    Raises:
        Unavailable: DATABASE_UNAVAILABLE.
        WrongState: SCHEMA_AHEAD, MIGRATION_FAILED.
    """
    deadline = time.monotonic() + settings.migrate_wait_seconds
    for room in SERVICES:
        database = Database(settings.database_url_for(room), room)
        try:
            moved = upgraded(database, deadline)
        finally:
            database.close()
        print(f"{room}: {moved.before or 'empty'} -> {moved.after}", flush=True)


def upgraded(database: Database, deadline: float) -> Moved:
    """Tries until the database answers or `deadline`, on `time.monotonic`, has passed."""
    is_told = False
    while True:
        try:
            return database.upgrade()
        except Unavailable as refusal:
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                raise Unavailable(refusal.reason, f"{database.room}: no answer in time: {_why(refusal)}") from refusal
            if not is_told:
                print(f"waiting up to {left_seconds:.0f} s: {_why(refusal)}", file=sys.stderr, flush=True)
                is_told = True
            time.sleep(min(_RETRY_SECONDS, left_seconds))


def make_bucket(settings: MigrateSettings) -> None:
    """A store that does not answer is none of the database's concern: services make the bucket when it does."""
    store = connect(settings)
    try:
        store.ensure_bucket()
    except Refusal as refusal:
        print(f"bucket {store.bucket}: not made yet: {refusal.message}", file=sys.stderr)
    else:
        print(f"bucket {store.bucket}: there")


def _why(refusal: Refusal) -> str:
    """The driver's own words, which tell a wrong password from a server that is away."""
    cause = getattr(refusal.__cause__, "orig", None)
    return str(cause).strip().replace("\n", " ") if cause is not None else refusal.message


if __name__ == "__main__":
    sys.exit(main())
