"""Whatever a tracker does, the work goes on, and a person is told once."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from feinschliff.trainer.trackers import feed as feeds
from feinschliff.trainer.trackers.feed import Feed
from feinschliff.trainer.trackers.tracker import Ending, Point, TrackerRefused
from tests.support.waiting import eventually


class Tracker:
    """Keeps what it is given; raises as often as it is told to."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.ending: Ending | None = None
        self.opened = 0
        self.failures: list[Exception] = []
        self.hangs = threading.Event()
        self.hangs.set()
        self.is_abandoned = False

    def open(self) -> None:
        self.opened += 1
        self.hangs.wait()
        if self.failures:
            raise self.failures.pop(0)

    def log(self, points: Sequence[Point]) -> None:
        self.steps += [point.step for point in points]

    def close(self, ending: Ending) -> None:
        self.ending = ending

    def abandon(self) -> None:
        self.is_abandoned = True


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(feeds, "BACKOFF_SECONDS_MAX", 0.02)


def fed(tracker: Tracker, warnings: list[str], steps: Sequence[int]) -> Feed:
    feed = Feed("test", tracker, warnings.append)
    for step in steps:
        feed.add(Point(step, 0.0, {}))
    return feed


def test_all_points_come_in_order_and_the_run_is_closed() -> None:
    tracker, warnings = Tracker(), list[str]()
    feed = fed(tracker, warnings, range(3))
    eventually(lambda: tracker.steps == [0, 1, 2], 30, "sent while the work goes on")
    for step in range(3, 1500):
        feed.add(Point(step, 0.0, {}))
    feed.end(Ending.FINISHED)
    feed.wait(10)
    assert tracker.steps == list(range(1500))
    assert (tracker.ending, warnings) == (Ending.FINISHED, [])


def test_a_tracker_that_comes_back_gets_everything_and_one_warning_is_told() -> None:
    tracker, warnings = Tracker(), list[str]()
    tracker.failures = [OSError("refused"), OSError("refused again")]
    feed = fed(tracker, warnings, range(5))
    feed.end(Ending.INTERRUPTED)
    feed.wait(10)
    assert (tracker.steps, tracker.ending) == ([0, 1, 2, 3, 4], Ending.INTERRUPTED)
    assert warnings == ["OSError: refused"]


def test_one_that_will_never_work_is_not_asked_again() -> None:
    tracker, warnings = Tracker(), list[str]()
    tracker.failures = [TrackerRefused("no such secret")]
    feed = fed(tracker, warnings, [1])
    feed.end(Ending.FINISHED)
    feed.wait(10)
    feed.add(Point(2, 0.0, {}))
    assert (tracker.opened, tracker.steps, warnings) == (1, [], ["no such secret"])


def test_one_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, warnings = Tracker(), list[str]()
    tracker.hangs.clear()
    feed = fed(tracker, warnings, [1])
    feed.end(Ending.FINISHED)
    feed.wait(0.05)
    assert tracker.is_abandoned
    assert warnings == ["it did not take the last numbers in time"]
    tracker.hangs.set()


def test_what_waits_is_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "POINTS_MAX", 100)
    tracker = Tracker()
    tracker.hangs.clear()
    feed = fed(tracker, [], range(1000))
    tracker.hangs.set()
    feed.end(Ending.FINISHED)
    feed.wait(10)
    assert tracker.steps[-100:] == list(range(900, 1000))
    assert len(tracker.steps) <= 200


def test_nothing_begins_where_no_number_comes() -> None:
    tracker = Tracker()
    feed = fed(tracker, [], [])
    feed.end(Ending.FAILED)
    feed.wait(10)
    assert tracker.opened == 0
