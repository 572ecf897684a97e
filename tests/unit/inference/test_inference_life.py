"""What is wanted, what is seen, and what follows, as tables."""

from __future__ import annotations

import itertools

import pytest

from feinschliff.inference.life import (
    DECIDE,
    NOT_YET,
    Act,
    Failure,
    Look,
    RouteState,
    RouteStatus,
    Sampling,
    Seen,
    State,
    deployment_state,
    route_status,
)
from feinschliff.kit.errors import Unavailable, WrongState
from tests.unit.inference.builders import failed, ready, version

BROKEN = Failure(reason="BROKEN", message="It is broken.")
PENDING, LOADING = RouteStatus(), RouteStatus(state=RouteState.LOADING)


@pytest.mark.parametrize(
    ("wanted", "seen", "act"),
    [
        (True, Seen.NOTHING, Act.LOAD),
        (True, Seen.LOADING, None),
        (True, Seen.HELD, None),
        (True, Seen.FAILED, Act.LOAD_AGAIN),
        (False, Seen.NOTHING, None),
        (False, Seen.LOADING, None),
        (False, Seen.HELD, Act.UNLOAD),
        (False, Seen.FAILED, Act.FORGET),
    ],
)
def test_every_pair_of_wanted_and_seen_has_its_act(wanted: bool, seen: Seen, act: Act | None) -> None:
    assert DECIDE.get((wanted, seen)) == act


def test_decisions_reach_what_is_wanted_and_stop_there() -> None:
    follows = {Act.LOAD: Seen.HELD, Act.LOAD_AGAIN: Seen.HELD, Act.UNLOAD: Seen.NOTHING, Act.FORGET: Seen.NOTHING}
    for wanted, start in itertools.product((True, False), Seen):
        seen: Seen = Seen.HELD if start is Seen.LOADING else start
        while (act := DECIDE.get((wanted, seen))) is not None:
            seen = follows[act]
        assert seen is (Seen.HELD if wanted else Seen.NOTHING)


@pytest.mark.parametrize(
    ("look", "state"),
    [
        (NOT_YET, RouteState.PENDING),
        (Look(Seen.LOADING), RouteState.LOADING),
        (Look(Seen.HELD), RouteState.READY),
        (Look(Seen.FAILED, BROKEN), RouteState.FAILED),
    ],
)
def test_a_new_route_is_as_far_as_its_adapter(look: Look, state: RouteState) -> None:
    held = ["sha256:m1"] if look.seen is Seen.HELD else []
    status = route_status(PENDING, version(1), look, held)
    assert status.state is state
    assert status.failure == look.failure
    assert (status.serving == version(1)) is (state is RouteState.READY)


@pytest.mark.parametrize("look", [NOT_YET, Look(Seen.LOADING), Look(Seen.FAILED, BROKEN)])
def test_a_route_answers_with_the_old_version_until_the_new_one_is_loaded(look: Look) -> None:
    status = route_status(ready(1), version(2), look, ["sha256:m1"])
    assert (status.state, status.serving, status.failure) == (RouteState.READY, version(1), look.failure)


def test_a_route_takes_the_new_version_once_it_is_loaded() -> None:
    assert route_status(ready(1), version(2), Look(Seen.HELD), ["sha256:m1", "sha256:m2"]) == ready(2)


def test_after_a_restart_a_route_is_not_ready_before_its_adapter_is_loaded_again() -> None:
    status = route_status(ready(1), version(1), Look(Seen.LOADING), [])
    assert (status.state, status.serving) == (RouteState.LOADING, version(1))


HELD = Look(Seen.HELD)


@pytest.mark.parametrize(
    ("base", "routes", "state", "has_failure"),
    [
        (NOT_YET, [], State.LOADING, False),
        (Look(Seen.LOADING), [PENDING], State.LOADING, False),
        (Look(Seen.FAILED, BROKEN), [PENDING], State.FAILED, True),
        (HELD, [], State.READY, False),
        (HELD, [ready()], State.READY, False),
        (HELD, [ready(), LOADING], State.LOADING, False),
        (HELD, [ready(), failed()], State.DEGRADED, True),
        (HELD, [failed(), LOADING], State.FAILED, True),
        (HELD, [ready().model_copy(update={"failure": BROKEN})], State.DEGRADED, True),
    ],
)
def test_a_deployment_is_as_well_as_its_base_and_routes(
    base: Look, routes: list[RouteStatus], state: State, has_failure: bool
) -> None:
    found, failure = deployment_state(base, routes)
    assert found is state
    assert (failure is not None) is has_failure


def test_failures_keep_what_the_refusal_said_and_hide_what_a_fault_said() -> None:
    refused = Failure.of(WrongState("BASE_DIGEST_MISMATCH", "Other weights.", advice=["Deploy it."], found="x"))
    assert (refused.reason, refused.advice, refused.retryable) == ("BASE_DIGEST_MISMATCH", ("Deploy it.",), False)
    assert refused.metadata == {"found": "x"}
    assert Failure.of(Unavailable("STORE_UNAVAILABLE", "Down.")).retryable
    assert "secret" not in Failure.of(RuntimeError("secret")).message


def test_sampling_falls_back_value_by_value() -> None:
    asked, deployment = Sampling(temperature=0.0), Sampling(temperature=0.7, top_p=0.9, stop=("x",))
    merged = asked.or_else(deployment).or_else(Sampling(max_tokens=5, top_p=0.1))
    assert merged == Sampling(temperature=0.0, top_p=0.9, max_tokens=5, stop=("x",))
