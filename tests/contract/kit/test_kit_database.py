"""What a room may rely on, on SQLite and on PostgreSQL alike."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, Table, func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from feinschliff.kit.db import Database, insert_ignore, metadata_for, select_one, update_versioned
from feinschliff.kit.errors import Conflict, StartError, Unavailable, WrongState
from tests.contract.kit.small_room.store import ITEMS, METADATA, MIGRATIONS, PARTS, ROOM
from tests.support.postgres import Postgres

ROOT = Path(__file__).parents[3]
HEAD = "0003"


def item(name: str = "a", count: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "count": count, "version": 1, **more}


def add(database: Database, *rows: dict[str, Any]) -> int:
    with database.transaction() as session:
        return insert_ignore(session, ITEMS, rows)


def names(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.execute(select(ITEMS.c.name).order_by(ITEMS.c.name)).scalars())


def version_of(database: Database) -> str | None:
    with database.reading() as session:
        return session.execute(text("SELECT version_num FROM small_alembic_version")).scalar_one_or_none()


def process(act: str, url: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.contract.kit.small_room", act, url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "services"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_migrations_bring_an_empty_database_to_what_the_store_declares(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, _: kind != "table" or str(name) in METADATA.tables,
            },
        )
        assert compare_metadata(context, METADATA) == []
    assert version_of(database) == HEAD


def test_upgrading_again_does_nothing(database: Database) -> None:
    add(database, item())
    database.upgrade()
    assert names(database) == ["a"]


def test_the_version_table_is_the_rooms_own(database: Database) -> None:
    tables = set(inspect(database.engine).get_table_names())
    assert tables == {"small_items", "small_parts", "small_requests", "small_alembic_version"}


def test_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    started = [process("upgrade", database_url) for _ in range(3)]
    ends = [(one.communicate(timeout=60)[1], one.returncode) for one in started]
    assert [code for _, code in ends] == [0, 0, 0], [errors for errors, _ in ends]
    database = Database(database_url, ROOM, migrations=MIGRATIONS)
    assert version_of(database) == HEAD
    database.close()


def test_threads_that_start_at_once_migrate_once(database_url: str) -> None:
    databases = [Database(database_url, ROOM, migrations=MIGRATIONS) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Database.upgrade, databases))
    assert version_of(databases[0]) == HEAD
    for one in databases:
        one.close()


def test_rebuilding_a_table_keeps_the_rows_that_refer_to_it(database_url: str) -> None:
    from alembic import command

    from feinschliff.kit.db import migrate

    database = Database(database_url, ROOM, migrations=MIGRATIONS)
    whole = command.upgrade
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate.command, "upgrade", lambda config, _: whole(config, "0002"))
        database.upgrade()
    with database.transaction() as session:
        session.execute(text("INSERT INTO small_items (name, count, version) VALUES ('a', 1, 1)"))
        session.execute(text("INSERT INTO small_parts (name, item) VALUES ('p', 'a')"))
    database.upgrade()
    with database.reading() as session:
        assert session.execute(select(PARTS.c.name)).scalars().all() == ["p"]
    database.close()


def test_a_migration_that_fails_leaves_nothing(database_url: str) -> None:
    from alembic import command

    from feinschliff.kit.db import migrate

    database = Database(database_url, ROOM, migrations=MIGRATIONS)
    whole = command.upgrade

    def broken(config: Any, revision: str) -> None:
        whole(config, "0002")
        raise RuntimeError("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate.command, "upgrade", broken)
        with pytest.raises(RuntimeError):
            database.upgrade()
    assert inspect(database.engine).get_table_names() == []
    database.upgrade()
    assert version_of(database) == HEAD
    database.close()


def test_verify_accepts_the_tables_of_this_version_and_refuses_older_ones(database_url: str) -> None:
    database = Database(database_url, ROOM, migrations=MIGRATIONS)
    with pytest.raises(WrongState) as caught:
        database.verify()
    assert caught.value.reason == "SCHEMA_BEHIND"
    assert caught.value.metadata["needed"] == HEAD
    database.upgrade()
    database.verify()
    database.close()


def test_tables_of_a_newer_version_are_refused_and_left_alone(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE small_alembic_version SET version_num = '9999'"))
    for act in (database.upgrade, database.verify):
        with pytest.raises(WrongState) as caught:
            act()
        assert caught.value.reason == "SCHEMA_AHEAD"


def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    def change_my_mind() -> None:
        with database.transaction() as session:
            insert_ignore(session, ITEMS, [item()])
            raise KeyError("changed my mind")

    with pytest.raises(KeyError):
        change_my_mind()
    assert names(database) == []


def test_what_is_committed_survives_kill_9(database_url: str) -> None:
    writer = process("write", database_url)
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    told += [int(line) for line in writer.stdout.read().splitlines()]
    writer.communicate(timeout=20)
    database = Database(database_url, ROOM, migrations=MIGRATIONS)
    with database.reading() as session:
        there = set(session.execute(select(ITEMS.c.count)).scalars())
    database.close()
    assert set(told) <= there
    assert len(there) <= len(told) + 1, "at most the one whose commit was not told"


def test_moments_come_back_in_utc_to_the_microsecond(database: Database) -> None:
    moment = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    add(database, item(made=moment))
    with database.reading() as session:
        row = select_one(session, ITEMS, name="a")
    assert row is not None
    assert row["made"] == moment
    assert row["made"].tzinfo is UTC or row["made"].utcoffset() == timedelta(0)


def test_a_moment_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="time zone"):
        add(database, item(made=datetime(2026, 1, 1)))


def test_moments_compare_in_queries(database: Database) -> None:
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    add(database, item("a", made=early), item("b", made=late))
    with database.reading() as session:
        found = session.execute(select(ITEMS.c.name).where(ITEMS.c.made > early)).scalars().all()
    assert found == ["b"]


def test_json_comes_back_as_it_was(database: Database) -> None:
    extra = {"ä": [1, 2.5, None, True], "nested": {"x": "y"}}
    add(database, item(extra=extra))
    with database.reading() as session:
        row = select_one(session, ITEMS, name="a")
    assert row is not None
    assert row["extra"] == extra


def test_select_one_finds_nothing_where_nothing_is(database: Database) -> None:
    with database.reading() as session:
        assert select_one(session, ITEMS, name="nobody") is None


def test_insert_ignore_counts_only_what_is_new(database: Database) -> None:
    assert add(database, item("a", 1), item("b", 2)) == 2
    assert add(database, item("b", 9), item("c", 3)) == 1
    assert add(database) == 0
    with database.reading() as session:
        counts = {row["name"]: row["count"] for row in session.execute(select(ITEMS)).mappings()}
    assert counts == {"a": 1, "b": 2, "c": 3}


def test_a_thousand_rows_at_once_are_counted_right(database: Database) -> None:
    rows = [item(f"n{number}", number) for number in range(1000)]
    assert add(database, *rows[:600]) == 600
    assert add(database, *rows) == 400


def test_a_write_to_a_row_that_changed_is_a_conflict(database: Database) -> None:
    add(database, item())
    with database.transaction() as session:
        update_versioned(session, ITEMS, {"name": "a"}, 1, {"count": 5})
    with pytest.raises(Conflict) as caught, database.transaction() as session:
        update_versioned(session, ITEMS, {"name": "a"}, 1, {"count": 6})
    assert caught.value.reason == "ROW_CHANGED"
    with database.reading() as session:
        row = select_one(session, ITEMS, name="a")
    assert row is not None
    assert (row["count"], row["version"]) == (5, 2)


def test_of_two_writers_with_the_same_version_one_wins(database: Database) -> None:
    add(database, item())
    barrier = threading.Barrier(2)

    def write(count: int) -> str:
        try:
            with database.transaction() as session:
                update_versioned(session, ITEMS, {"name": "a"}, 1, {"count": count})
        except Conflict:
            return "conflict"
        return "won"

    def at_once(count: int) -> str:
        barrier.wait(5)
        return write(count)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(at_once, [1, 2])) == ["conflict", "won"]


def test_many_writers_lose_no_update(database: Database) -> None:
    add(database, item())

    def increment(_: int) -> None:
        with database.transaction() as session:
            session.execute(ITEMS.update().where(ITEMS.c.name == "a").values(count=ITEMS.c.count + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(80)))
    with database.reading() as session:
        assert session.execute(select(ITEMS.c.count)).scalar_one() == 80


def test_a_reader_neither_waits_for_a_writer_nor_sees_half_of_it(database: Database) -> None:
    add(database, item("a"))
    with database.transaction() as writing:
        insert_ignore(writing, ITEMS, [item("b")])
        begun = time.monotonic()
        assert names(database) == ["a"]
        assert time.monotonic() - begun < 2
    assert names(database) == ["a", "b"]


def test_a_reader_sees_one_moment(database: Database) -> None:
    with database.reading() as session:
        count = select(func.count()).select_from(ITEMS)
        assert session.execute(count).scalar_one() == 0
        add(database, item())
        assert session.execute(count).scalar_one() == 0


def test_a_reader_cannot_write_and_the_connection_can_afterwards(database: Database) -> None:
    with pytest.raises(DBAPIError), database.reading() as session:
        insert_ignore(session, ITEMS, [item()])
    assert add(database, item()) == 1


def test_references_are_enforced(database: Database) -> None:
    with pytest.raises(DBAPIError), database.transaction() as session:
        insert_ignore(session, PARTS, [{"name": "p", "item": "nobody"}])


def test_deleting_cascades(database: Database) -> None:
    add(database, item())
    with database.transaction() as session:
        insert_ignore(session, PARTS, [{"name": "p", "item": "a"}])
    with database.transaction() as session:
        session.execute(ITEMS.delete())
    with database.reading() as session:
        assert session.execute(select(func.count()).select_from(PARTS)).scalar_one() == 0


def test_check_answers_while_the_database_does(database: Database) -> None:
    database.check()


def test_a_fault_of_ours_is_no_outage(database: Database) -> None:
    with pytest.raises(DBAPIError), database.reading() as session:
        session.execute(text("SELECT * FROM small_nothing"))


def test_postgresql_going_away_is_unavailable_and_it_recovers_by_itself(postgres: Postgres) -> None:
    name = "kit_outage"
    database = Database(postgres.create(name), ROOM, migrations=MIGRATIONS)
    database.upgrade()
    with pytest.raises(Unavailable) as caught, database.transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert caught.value.retry_after_seconds
    database.check()
    assert add(database, item()) == 1
    database.close()
    postgres.drop(name)


def test_a_postgresql_that_is_not_there_is_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none", ROOM, migrations=MIGRATIONS)
    with pytest.raises(Unavailable):
        database.check()


def test_an_sqlite_writer_that_waits_too_long_is_unavailable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/small.db"
    first = Database(url, ROOM, migrations=MIGRATIONS)
    first.upgrade()
    second = Database(url, ROOM, migrations=MIGRATIONS, busy_timeout_seconds=0.1)
    with first.transaction() as session:
        insert_ignore(session, ITEMS, [item("a")])
        with pytest.raises(Unavailable):
            add(second, item("b"))
        assert names(second) == []
    assert add(second, item("b")) == 1
    first.close()
    second.close()


def test_an_sqlite_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "small.db").mkdir()
    with pytest.raises(Unavailable):
        Database(f"sqlite:///{tmp_path}/small.db", ROOM).check()


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "not a url"])
def test_an_address_that_cannot_work_stops_the_start_by_name(url: str) -> None:
    with pytest.raises(StartError, match="FEINSCHLIFF_DATABASE_URL"):
        Database(url, ROOM)


def test_a_table_that_does_not_carry_its_rooms_name_is_refused(tmp_path: Path) -> None:
    Table("stray", metadata_for("misnamed"), Column("id", Integer, primary_key=True))
    with pytest.raises(ValueError, match="stray"):
        Database(f"sqlite:///{tmp_path}/x.db", "misnamed")
