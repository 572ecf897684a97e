"""Creates that may be sent twice, on SQLite and on PostgreSQL alike."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from feinschliff.kit.db import Database, insert_ignore
from feinschliff.kit.errors import Invalid
from tests.contract.kit.small_room.store import ITEMS, LEDGER


def create(database: Database, request_id: str, body: str, name: str) -> str:
    def make() -> str:
        assert insert_ignore(session, ITEMS, [{"name": name, "count": 0, "version": 1}]) == 1
        return name

    with database.transaction() as session:
        return LEDGER.once(session, "CreateItem", request_id, body, make)


def count(database: Database) -> int:
    with database.reading() as session:
        return session.execute(select(func.count()).select_from(ITEMS)).scalar_one()


def test_the_same_request_gives_the_same_resource(database: Database) -> None:
    assert create(database, "r", "body", "one") == "one"
    assert create(database, "r", "body", "two") == "one"
    assert count(database) == 1


def test_another_body_under_the_same_id_is_refused(database: Database) -> None:
    create(database, "r", "body", "one")
    with pytest.raises(Invalid) as caught:
        create(database, "r", "other", "two")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert count(database) == 1


def test_another_method_has_its_own_ids(database: Database) -> None:
    create(database, "r", "body", "one")
    with database.transaction() as session:
        assert LEDGER.once(session, "CreateOther", "r", "other", lambda: "x") == "x"


def test_without_an_id_each_request_makes_its_own(database: Database) -> None:
    assert create(database, "", "body", "one") == "one"
    assert create(database, "", "body", "two") == "two"


def test_a_request_that_failed_may_be_sent_again(database: Database) -> None:
    def fail() -> str:
        raise KeyError("no")

    with pytest.raises(KeyError), database.transaction() as session:
        LEDGER.once(session, "CreateItem", "r", "body", fail)
    assert create(database, "r", "body", "one") == "one"


def test_the_same_request_from_many_at_once_makes_one_resource(database: Database) -> None:
    barrier = threading.Barrier(6)

    def at_once(number: int) -> str:
        barrier.wait(10)
        return create(database, "r", "body", f"name-{number}")

    with ThreadPoolExecutor(6) as pool:
        answers = set(pool.map(at_once, range(6)))
    assert len(answers) == 1
    assert count(database) == 1


def test_an_id_that_is_too_long_is_refused(database: Database) -> None:
    with pytest.raises(Invalid) as caught:
        create(database, "x" * 65, "body", "one")
    assert caught.value.reason == "REQUEST_ID_INVALID"
