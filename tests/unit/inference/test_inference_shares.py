"""Shares change all at once, and are remembered with their reason."""

from __future__ import annotations

from datetime import timedelta

import pytest

from feinschliff.inference.canary import Cause, Rollback
from feinschliff.inference.life import Deployment, Origin, RouteStatus, State, unwanted_status
from feinschliff.inference.shares import CHANGES_KEPT, refuse_long_reason, status_after, weights_of, with_weights
from feinschliff.kit.errors import Invalid
from tests.unit.inference.builders import MODEL, MOMENT, deployment, ready

V1, V2 = f"{MODEL}/versions/1", f"{MODEL}/versions/2"
ROLLBACK = Rollback(cause=Cause.ERRORS, reason="Worse.", time=MOMENT)


def two(*, rolled_back: Rollback | None = None) -> Deployment:
    routes = {"a": (V1, ready(1)), "b": (V2, ready(2).model_copy(update={"rolled_back": rolled_back}))}
    return deployment(routes=routes)


def test_routes_get_the_shares_given_and_those_left_out_none() -> None:
    assert weights_of(with_weights(two().spec, {"a": 3})) == {"a": 3.0, "b": 0.0}


@pytest.mark.parametrize("weights", [{"c": 1.0}, {"a": -1.0}, {"a": 1000.5}, {"a": float("nan")}, {"": 1.0}])
def test_wrong_shares_are_refused_by_their_route(weights: dict[str, float]) -> None:
    with pytest.raises(Invalid) as refused:
        with_weights(two().spec, weights)
    assert [one.field for one in refused.value.fields] == [f"weights[{key}]" for key in weights]


def test_a_reason_is_bounded() -> None:
    refuse_long_reason("x" * 1024)
    with pytest.raises(Invalid):
        refuse_long_reason("x" * 1025)


def test_a_change_of_shares_is_remembered_and_loads_nothing() -> None:
    before = two()
    status = status_after(before, with_weights(before.spec, {"a": 1}), MOMENT, reason="Friday.")
    assert status.state is State.READY
    change = status.traffic[0]
    assert (change.time, change.weights, change.reason) == (MOMENT, {"a": 1.0, "b": 0.0}, "Friday.")
    assert change.origin is Origin.CALLER


def test_other_changes_are_not_remembered_as_traffic() -> None:
    before = two()
    status = status_after(before, before.spec.model_copy(update={"replicas": 0}), MOMENT)
    assert (status.traffic, status.state) == ((), State.LOADING)
    assert status_after(before, before.spec.model_copy(update={"display_name": "x"}), MOMENT) == before.status


def test_the_newest_changes_are_kept() -> None:
    now = two()
    for step in range(CHANGES_KEPT + 3):
        spec = with_weights(now.spec, {"a": step % 7 + 1.0})
        moment = MOMENT + timedelta(seconds=step)
        now = now._replace(spec=spec, status=status_after(now, spec, moment, reason=str(step)))
    reasons = [change.reason for change in now.status.traffic]
    assert reasons == [str(step) for step in reversed(range(3, CHANGES_KEPT + 3))]


@pytest.mark.parametrize(("weights", "is_still"), [({"a": 1.0}, True), ({"a": 1.0, "b": 0.1}, False)])
def test_a_route_is_rolled_back_until_it_gets_a_share_again(weights: dict[str, float], is_still: bool) -> None:
    before = two(rolled_back=ROLLBACK)
    status = status_after(before, with_weights(before.spec, weights), MOMENT)
    assert (status.routes["b"].rolled_back == ROLLBACK) is is_still


def test_what_was_decided_about_traffic_outlives_a_time_without_copies() -> None:
    status = status_after(two(rolled_back=ROLLBACK), with_weights(two().spec, {"a": 2}), MOMENT)
    kept = unwanted_status(status)
    assert kept.traffic == status.traffic
    assert kept.routes == {"b": RouteStatus(rolled_back=ROLLBACK)}
