"""Who comes in on a copy, who is let end, and when that time is over."""

from __future__ import annotations

from datetime import timedelta

import pytest

from feinschliff.inference.life import Deployment
from feinschliff.inference.pool import BaseKey, Lease
from feinschliff.inference.traffic import Calls, Traffic
from feinschliff.kit.clock import ManualClock
from feinschliff.kit.errors import Exhausted, Unavailable
from tests.unit.inference.builders import DIGEST, deployment
from tests.unit.inference.engines import HandEngine


class Bench:
    """Traffic, and calls that come in."""

    def __init__(self, project_requests_max: int = 0) -> None:
        self.clock = ManualClock()
        self.traffic = Traffic(self.clock, project_requests_max=project_requests_max)

    def call(self, to: Deployment) -> Lease:
        lease = Lease(HandEngine(), BaseKey(DIGEST, "fp32"), "", lambda lease: None)
        self.traffic.enter(to, lease)
        return lease


def limited(name: str, requests_max: int) -> Deployment:
    made = deployment(name)
    return made._replace(spec=made.spec.model_copy(update={"requests_max": requests_max}))


def test_calls_count_until_their_lease_is_back() -> None:
    bench = Bench()
    first, second = bench.call(deployment()), bench.call(deployment())
    second.call.is_waiting = True
    assert bench.traffic.calls(deployment().name) == Calls(running=1, waiting=1)
    assert bench.traffic.calls(deployment("e").name) == Calls(0, 0)
    first.give_back()
    second.give_back()
    assert bench.traffic.calls(deployment().name) == Calls(0, 0)


def test_a_drained_deployment_takes_no_calls_until_it_is_put_back_and_others_do() -> None:
    bench = Bench()
    bench.traffic.drain(deployment(), 10)
    with pytest.raises(Unavailable) as refused:
        bench.call(deployment())
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("REPLICA_DRAINING", 1.0)
    assert bench.call(deployment("e"))
    bench.traffic.undrain(deployment())
    assert bench.call(deployment())


def test_a_later_deployment_of_the_same_name_is_in_traffic() -> None:
    bench = Bench()
    bench.traffic.drain(deployment(), 10)
    later = deployment()._replace(created=deployment().created + timedelta(days=1))
    assert not bench.traffic.is_draining(later)
    assert bench.call(later)


def test_calls_of_a_drained_deployment_may_end_until_their_time_is_over() -> None:
    bench, ended = Bench(), []
    mine, other = bench.call(deployment()), bench.call(deployment("e"))
    mine.call.when_cut(lambda: ended.append("mine"))
    other.call.when_cut(lambda: ended.append("other"))
    bench.traffic.drain(deployment(), 10)
    bench.clock.advance(9.9)
    assert bench.traffic.end_late() == 0
    bench.clock.advance(0.2)
    assert bench.traffic.end_late() == 1
    assert ended == ["mine"]
    assert mine.call.cut_by is not None
    assert (mine.call.cut_by.reason, other.call.cut_by) == ("REPLICA_DRAINED", None)
    assert bench.traffic.end_late() == 0


def test_work_that_begins_on_a_call_that_is_cut_already_ends_at_once() -> None:
    bench, ended = Bench(), []
    call = bench.call(deployment())
    call.call.cut(Unavailable("REPLICA_DRAINED", "Over."))
    call.call.when_cut(lambda: ended.append(True))
    assert ended == [True]


def test_a_call_that_ended_is_not_cut() -> None:
    bench, ended = Bench(), []
    call = bench.call(deployment())
    call.call.when_cut(lambda: ended.append(True))
    bench.traffic.drain(deployment(), 0)
    call.give_back()
    assert bench.traffic.end_late() == 0
    assert ended == []


def test_a_project_has_so_many_calls_and_others_theirs() -> None:
    bench = Bench(project_requests_max=2)
    first = bench.call(deployment("d"))
    bench.call(deployment("e"))
    with pytest.raises(Exhausted) as refused:
        bench.call(deployment("f"))
    assert (refused.value.reason, refused.value.metadata["limited"]) == ("PROJECT_LIMIT", "projects/default")
    assert refused.value.retry_after_seconds
    assert bench.call(deployment("d", project="other"))
    first.give_back()
    assert bench.call(deployment("f"))


def test_what_is_asked_within_a_call_takes_no_place_of_its_own() -> None:
    bench = Bench(project_requests_max=1)
    bench.call(deployment())
    inner = Lease(HandEngine(), BaseKey(DIGEST, "fp32"), "", lambda lease: None)
    bench.traffic.enter(deployment("judge"), inner, is_within_call=True)
    assert bench.traffic.calls(deployment("judge").name).running == 1
    with pytest.raises(Exhausted):
        bench.call(deployment("e"))
    bench.traffic.drain(deployment("judge"), 10)
    with pytest.raises(Unavailable):
        bench.traffic.enter(deployment("judge"), inner, is_within_call=True)


def test_a_deployment_with_a_limit_of_its_own_does_not_count_towards_its_projects() -> None:
    bench = Bench(project_requests_max=1)
    for _ in range(3):
        bench.call(limited("own", 3))
    with pytest.raises(Exhausted) as refused:
        bench.call(limited("own", 3))
    assert refused.value.metadata["limited"] == limited("own", 3).name
    assert bench.call(deployment("d"))
