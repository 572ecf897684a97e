"""The table of deployments, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import inspect

from feinschliff.inference import store
from feinschliff.inference.life import Deployment, State
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Conflict, Invalid
from feinschliff.kit.filters import Order
from feinschliff.kit.paging import Page
from tests.unit.inference.builders import MODEL, MOMENT, PROJECT, deployment, failed, ready

LATER = MOMENT + timedelta(seconds=5)
NEWEST_FIRST, BY_NAME = Order("create_time", True), Order("name", False)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url, "inference")
    made.upgrade()
    yield made
    made.close()


def add(database: Database, *deployments: Deployment) -> None:
    with database.transaction() as session:
        for one in deployments:
            store.insert(session, one)


def read(database: Database, name: str = "d") -> Deployment:
    with database.reading() as session:
        found = store.find(session, f"{PROJECT}/deployments/{name}")
    assert found is not None
    return found


def test_migrations_make_the_tables_that_the_code_declares(database: Database) -> None:
    database.verify()
    database.upgrade()
    inspector = inspect(database.engine)
    for table in store.METADATA.tables.values():
        found = {column["name"]: column for column in inspector.get_columns(table.name)}
        assert set(found) == {column.name for column in table.columns}
        for column in table.columns:
            assert found[column.name]["nullable"] == column.nullable
        assert inspector.get_pk_constraint(table.name)["constrained_columns"] == [one.name for one in table.primary_key]


def test_a_deployment_is_read_as_it_was_written(database: Database) -> None:
    written = deployment(routes={"a": (f"{MODEL}/versions/1", ready(1)), "b": (f"{MODEL}@x", failed())}, on_demand=True)
    add(database, written)
    assert read(database) == written


def test_every_write_counts_the_version_and_a_stale_one_is_refused(database: Database) -> None:
    add(database, deployment(state=State.PENDING))
    first = read(database)
    with database.transaction() as session:
        store.write_status(session, first, first.status.model_copy(update={"state": State.READY}), LATER)
    second = read(database)
    assert (second.status.state, second.version, second.generation, second.updated) == (State.READY, 2, 1, LATER)
    with pytest.raises(Conflict), database.transaction() as session:
        store.write_spec(session, first, first.spec, first.status, LATER)
    with database.transaction() as session:
        store.write_spec(session, second, second.spec, second.status, LATER)
    assert (read(database).version, read(database).generation) == (3, 2)


def test_a_buried_deployment_is_unseen_and_its_name_counts_on(database: Database) -> None:
    add(database, deployment())
    with database.transaction() as session:
        store.bury(session, read(database), LATER)
    with database.reading() as session:
        assert store.find(session, f"{PROJECT}/deployments/d") is None
        assert store.everything(session) == []
        assert store.version_of_deleted(session, f"{PROJECT}/deployments/d") == 2
    add(database, deployment())
    assert read(database).version == 3
    with database.reading() as session:
        assert store.version_of_deleted(session, f"{PROJECT}/deployments/d") is None


def names(database: Database, order: Order, filter_text: str = "", size: int = 2) -> list[list[str]]:
    pages, token = [], ""
    while True:
        page = Page.open(token, size, filter_text)
        with database.reading() as session:
            found = store.page_of(session, PROJECT, filter_text, order, page)
        shown = found[: page.size]
        pages.append([one.name.rsplit("/", 1)[1] for one in shown])
        if len(found) <= page.size:
            return pages
        key = shown[-1].created.isoformat() if order.field == "create_time" else shown[-1].name
        token = page.token(key, shown[-1].name)


def test_pages_follow_each_other_in_every_order(database: Database) -> None:
    moments = {"a": 3, "b": 1, "c": 3, "d": 2, "e": 0}
    add(
        database, *(deployment(name)._replace(created=MOMENT + timedelta(hours=hour)) for name, hour in moments.items())
    )
    add(database, deployment("elsewhere", project="other"))
    assert names(database, NEWEST_FIRST) == [["c", "a"], ["d", "b"], ["e"]]
    assert names(database, BY_NAME) == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize(
    ("filter_text", "expected"),
    [
        ("state = READY", ["a"]),
        ("state != STATE_READY", ["b", "c"]),
        ('base_model = "file:/other"', ["c"]),
        ('create_time > "2026-01-01T00:30:00Z"', ["b", "c"]),
        ("state = FAILED AND base_model = file:/base", ["b"]),
        ('labels.team = "x"', ["a"]),
    ],
)
def test_filters_compare_the_documented_fields(database: Database, filter_text: str, expected: list[str]) -> None:
    one = deployment("a")
    labelled = one._replace(spec=one.spec.model_copy(update={"labels": {"team": "x"}}))
    later = MOMENT + timedelta(hours=1)
    add(
        database,
        labelled,
        deployment("b", state=State.FAILED)._replace(created=later),
        deployment("c", state=State.LOADING, base="file:/other")._replace(created=later),
    )
    assert names(database, BY_NAME, filter_text, size=10) == [expected]


@pytest.mark.parametrize("filter_text", ["nonsense = 1", "state = WRONG", "state"])
def test_other_filters_are_refused(database: Database, filter_text: str) -> None:
    with pytest.raises(Invalid), database.reading() as session:
        store.count(session, PROJECT, filter_text)
