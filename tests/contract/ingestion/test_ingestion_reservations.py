"""Reservations on SQLite and on PostgreSQL: who owns an upload, who may remove it, and what is left of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.manifest import FileEntry
from feinschliff.ingestion.datasets import Datasets, Draft
from feinschliff.ingestion.header import Header
from feinschliff.ingestion.model import Facts, State, Version
from feinschliff.ingestion.reservations import Reservations
from feinschliff.ingestion.versions import Versions
from feinschliff.kit.clock import ManualClock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Conflict, Invalid, NotFound, Refusal, Unavailable, WrongState
from feinschliff.kit.watch import Wake

FACTS = Facts(
    format="chat", source=FileEntry(sha256="a" * 64, size_bytes=1), splits={}, rows_by_split={"train": 10}, tokens=1
)
LEASE_SECONDS = 30.0
INTO = Header("default", "d", create_dataset_if_missing=True)
AGAIN = Header("default", "d", create_dataset_if_missing=True, request_id="r", digest="x")


class UnreachableStore(DirectoryStore):
    """A folder that cannot be cleaned while `is_down`."""

    is_down = False

    def delete_prefix(self, prefix: str) -> None:
        if self.is_down:
            raise Unavailable("STORE_UNAVAILABLE", "The object store does not answer.")
        super().delete_prefix(prefix)


class Site:
    """Several services on one database, one store and one clock."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.store = UnreachableStore(folder)
        self.clock = ManualClock()
        self.datasets = Datasets(database, self.store, self.clock)
        self.versions = Versions(database, self.store)

    def process(self) -> Reservations:
        return Reservations(self.database, self.store, self.clock, Wake(), lease_seconds=LEASE_SECONDS)

    def write(self, version: Version) -> None:
        self.store.put_bytes(f"{version.prefix}/source", b"x")

    def numbers(self) -> list[int]:
        try:
            dataset = self.datasets.get("default", "d")
        except NotFound:
            return []
        found = []
        for number in range(1, 10):
            try:
                found.append(self.versions.get("default", dataset.id, number).number)
            except NotFound:
                continue
        return found


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    database = Database(database_url, "ingestion")
    database.upgrade()
    folder = tmp_path / "bucket"
    folder.mkdir()
    yield Site(database, folder)
    database.close()


def reason(act: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as caught:
        act()
    return caught.value.reason


def test_published_version_is_ready_and_the_next_number_follows(site: Site) -> None:
    mine = site.process()
    version = mine.publish(mine.reserve(INTO), FACTS, "b" * 64)
    assert (version.number, version.state, version.ready) == (1, State.READY, site.clock.now())
    assert site.versions.get("default", "d", 1) == version
    assert mine.reserve(INTO).number == 2


def test_given_up_reservation_leaves_neither_row_nor_bytes_nor_dataset(site: Site) -> None:
    mine = site.process()
    version = mine.reserve(INTO)
    site.write(version)
    mine.give_up(version)
    assert list(site.store.list()) == []
    assert site.numbers() == []
    mine.give_up(version)


def test_living_reservation_is_left_alone_and_a_silent_one_is_removed(site: Site) -> None:
    mine, other = site.process(), site.process()
    version = mine.reserve(INTO)
    site.write(version)
    for _ in range(5):
        site.clock.advance(LEASE_SECONDS * 0.8)
        mine.renew()
        other.sweep()
        mine.sweep()
    assert site.numbers() == [1]
    site.clock.advance(LEASE_SECONDS + 1)
    other.sweep()
    assert site.numbers() == []
    assert list(site.store.list()) == []


def test_progress_keeps_the_lease(site: Site) -> None:
    mine, other = site.process(), site.process()
    version = mine.reserve(INTO)
    for _ in range(4):
        site.clock.advance(LEASE_SECONDS * 0.8)
        version = mine.progress(version, 10)
        other.sweep()
    assert site.numbers() == [1]


def test_own_uploads_are_never_swept_however_late(site: Site) -> None:
    mine = site.process()
    mine.reserve(INTO)
    site.clock.advance(LEASE_SECONDS * 10)
    mine.sweep()
    assert site.numbers() == [1]


@pytest.mark.parametrize("same_process", [True, False])
def test_who_lost_its_reservation_can_neither_go_on_nor_harm_the_next_one(site: Site, same_process: bool) -> None:
    slow, quick = site.process(), site.process()
    lost = slow.reserve(INTO)
    site.clock.advance(LEASE_SECONDS + 1)
    quick.sweep()
    next_one = slow if same_process else quick
    taken = next_one.reserve(INTO)
    site.write(taken)
    assert taken.number == lost.number
    assert reason(lambda: slow.progress(lost, 5)) == "UPLOAD_LOST"
    assert reason(lambda: slow.publish(lost, FACTS, "b" * 64)) == "UPLOAD_LOST"
    slow.give_up(lost)
    assert list(site.store.list()) == [f"{taken.prefix}/source"]
    assert next_one.publish(taken, FACTS, "b" * 64).state is State.READY


def test_what_cannot_be_removed_now_is_removed_later(site: Site) -> None:
    mine = site.process()
    version = mine.reserve(INTO)
    site.write(version)
    site.store.is_down = True
    mine.give_up(version)
    mine.renew()
    assert site.numbers() == [1]
    site.store.is_down = False
    mine.sweep()
    assert site.numbers() == [1]
    site.clock.advance(LEASE_SECONDS + 1)
    mine.renew()
    mine.sweep()
    assert site.numbers() == []
    assert list(site.store.list()) == []


def test_two_sweepers_at_once_remove_once_and_harm_nothing(site: Site) -> None:
    dead, one, two = site.process(), site.process(), site.process()
    for _ in range(3):
        site.write(dead.reserve(INTO))
    site.clock.advance(LEASE_SECONDS + 1)
    threads = [threading.Thread(target=sweeper.sweep) for sweeper in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.clock.advance(LEASE_SECONDS + 1)
    one.sweep()
    assert site.numbers() == []
    assert list(site.store.list()) == []


def test_same_request_finds_what_it_made(site: Site) -> None:
    mine, other = site.process(), site.process()
    version = mine.reserve(AGAIN)
    assert reason(lambda: other.reserve(AGAIN)) == "UPLOAD_RUNNING"
    published = mine.publish(version, FACTS, "b" * 64)
    assert other.reserve(AGAIN) == published
    changed = Header("default", "d", create_dataset_if_missing=True, request_id="r", digest="y")
    with pytest.raises(Invalid, match="another header"):
        other.reserve(changed)


def test_same_request_takes_the_place_of_its_dead_self(site: Site) -> None:
    dead, alive = site.process(), site.process()
    site.write(dead.reserve(AGAIN))
    site.clock.advance(LEASE_SECONDS + 1)
    assert alive.reserve(AGAIN).number == 1
    assert list(site.store.list()) == []


def test_same_request_at_the_same_moment_reserves_once(site: Site) -> None:
    outcomes: list[str] = []

    def reserve() -> None:
        try:
            outcomes.append(str(site.process().reserve(AGAIN).number))
        except Conflict as conflict:
            outcomes.append(conflict.reason)

    threads = [threading.Thread(target=reserve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["1", "UPLOAD_RUNNING", "UPLOAD_RUNNING", "UPLOAD_RUNNING"]


def test_missing_dataset_is_refused_unless_it_shall_be_made(site: Site) -> None:
    mine = site.process()
    assert reason(lambda: mine.reserve(Header("default", "d"))) == "DATASET_NOT_FOUND"
    site.datasets.create("default", "d", Draft(), request_id="", body_digest="")
    version = mine.reserve(Header("default", "d"))
    mine.give_up(version)
    assert site.datasets.get("default", "d").versions == 0


def test_dataset_is_busy_while_an_upload_runs_and_free_after(site: Site) -> None:
    mine = site.process()
    version = mine.reserve(INTO)
    with pytest.raises(WrongState) as caught:
        site.datasets.delete("default", "d")
    assert caught.value.reason == "DATASET_BUSY"
    site.write(mine.publish(version, FACTS, "b" * 64))
    site.datasets.delete("default", "d")
    assert list(site.store.list()) == []
    assert site.numbers() == []


def test_removed_dataset_whose_bytes_stay_takes_no_upload_until_they_are_gone(site: Site) -> None:
    mine = site.process()
    site.write(mine.publish(mine.reserve(INTO), FACTS, "b" * 64))
    site.store.is_down = True
    site.datasets.delete("default", "d")
    assert reason(lambda: site.datasets.get("default", "d")) == "DATASET_NOT_FOUND"
    assert reason(lambda: mine.reserve(INTO)) == "DATASET_BEING_REMOVED"
    site.store.is_down = False
    site.datasets.finish_removals()
    assert list(site.store.list()) == []
    assert mine.reserve(INTO).number == 1
