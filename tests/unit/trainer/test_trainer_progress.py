"""Reports reach the service once each, whatever it does in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from feinschliff.formats.report import Failure, Notice, Progress
from feinschliff.kit.errors import Denied, Invalid, Refusal, Unavailable
from feinschliff.trainer.progress import Asked, Outbox, Posted, Reporter
from feinschliff.trainer.stop import Stop, Stopped, Why
from tests.support.waiting import eventually


class Service:
    """Keeps what it is sent; refuses as often as it is told to, before or after it has stored."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.progress: list[int] = []
        self.refusals: list[Refusal] = []
        self.asked = Asked()
        self.calls = 0
        self.refuses: Callable[[str], bool] = lambda key: False

    def send(self, reports: Sequence[Posted]) -> Asked:
        self.calls += 1
        for posted in reports:
            if isinstance(posted.report, Progress):
                self.progress.append(posted.report.step)
            elif self.refuses(posted.report.key):
                raise Invalid("REPORT_INVALID", "never")
            elif posted.report.key not in self.keys:
                self.keys.append(posted.report.key)
        if self.refusals:
            raise self.refusals.pop(0)
        return self.asked

    def finish(self, *, result_prefix: str = "", failure: Failure | None = None) -> None:
        raise AssertionError("the reporter never ends the attempt")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feinschliff.trainer.progress.FLUSH_SECONDS", 0.01)
    monkeypatch.setattr("feinschliff.trainer.progress.BACKOFF_SECONDS_MAX", 0.02)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def reporter(service: Service, outbox: Outbox, stop: Stop) -> Iterator[Reporter]:
    one = Reporter(outbox, service, stop)
    one.start()
    yield one
    one.close(wait_seconds=0)


def note(key: str) -> Notice:
    return Notice(key=key, message="m")


def test_reports_arrive_in_order_and_each_once(reporter: Reporter, service: Service, outbox: Outbox) -> None:
    for k in range(500):
        outbox.post(note(f"n/{k}"))
        outbox.post(note(f"n/{k}"))

    assert reporter.close(wait_seconds=5)
    assert service.keys == [f"n/{k}" for k in range(500)]
    assert outbox.unacknowledged() == []


def test_an_outage_loses_nothing(reporter: Reporter, service: Service, outbox: Outbox) -> None:
    service.refusals = [Unavailable("SERVICE_UNREACHABLE", "down") for _ in range(5)]
    outbox.post(note("a"))
    eventually(lambda: service.calls >= 3)
    outbox.post(note("b"))

    assert reporter.close(wait_seconds=5)
    assert service.keys == ["a", "b"]


def test_what_a_dead_service_did_not_take_stays_known(service: Service, outbox: Outbox, stop: Stop) -> None:
    service.refusals = [Unavailable("SERVICE_UNREACHABLE", "down") for _ in range(1000)]
    reporter = Reporter(outbox, service, stop)
    reporter.start()
    outbox.post(note("a"))

    assert not reporter.close(wait_seconds=0.1)
    assert [posted.report.kind for posted in outbox.unacknowledged()] == ["notice"]


def test_only_the_newest_progress_is_sent_and_none_is_kept(service: Service, outbox: Outbox, stop: Stop) -> None:
    for step in range(5):
        outbox.post(Progress(stage="training", step=step))
    assert outbox.unacknowledged() == []
    reporter = Reporter(outbox, service, stop)
    reporter.start()

    eventually(lambda: service.progress)
    reporter.close(wait_seconds=1)

    assert service.progress == [4]


def test_a_report_posted_while_its_elder_is_on_the_way_is_not_acknowledged_with_it(outbox: Outbox) -> None:
    outbox.post(Progress(stage="training", step=1))
    batch = outbox.next_batch()
    outbox.post(Progress(stage="training", step=2))
    outbox.acknowledge(batch)

    assert [posted.report.step for posted in outbox.next_batch() if isinstance(posted.report, Progress)] == [2]


@pytest.mark.parametrize("why", [Why.CANCELLED, Why.PAUSED])
def test_a_wish_of_the_service_stops_the_work(
    reporter: Reporter, service: Service, outbox: Outbox, stop: Stop, why: Why
) -> None:
    service.asked = Asked(why=why)
    outbox.post(note("a"))
    reporter.close(wait_seconds=5)

    with pytest.raises(Stopped) as stopped:
        stop.check()
    assert stopped.value.why is why


def test_a_wish_to_save_is_taken_once(reporter: Reporter, service: Service, outbox: Outbox, stop: Stop) -> None:
    service.asked = Asked(save_now=True)
    outbox.post(note("a"))
    reporter.close(wait_seconds=5)

    stop.check()
    assert stop.take_save_request()
    assert not stop.take_save_request()


def test_an_attempt_that_lost_its_job_stops(reporter: Reporter, service: Service, outbox: Outbox, stop: Stop) -> None:
    service.refusals = [Denied("ATTEMPT_TOKEN_INVALID", "another attempt runs")]
    outbox.post(note("a"))
    reporter.close(wait_seconds=5)

    with pytest.raises(Stopped) as stopped:
        stop.check()
    assert stopped.value.why is Why.SUPERSEDED


def test_a_report_that_is_never_taken_holds_up_no_other(reporter: Reporter, service: Service, outbox: Outbox) -> None:
    service.refuses = lambda key: key == "bad"
    for key in ("a", "bad", "b"):
        outbox.post(note(key))

    assert reporter.close(wait_seconds=5)
    assert service.keys == ["a", "b"]


def test_a_silent_attempt_gives_signs_of_life(
    service: Service, outbox: Outbox, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feinschliff.trainer.progress.SIGN_OF_LIFE_SECONDS", 0.05)
    reporter = Reporter(outbox, service, stop)
    reporter.start()

    eventually(lambda: service.calls >= 3)
    reporter.close(wait_seconds=1)
