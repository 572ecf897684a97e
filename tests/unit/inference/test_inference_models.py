"""Which deployment answers a model name, and what is said when none does."""

from __future__ import annotations

import pytest

from feinschliff.inference.life import Failure, RouteState, RouteStatus, State
from feinschliff.inference.pool import BaseKey
from feinschliff.inference.targets import is_host, pinned_on, targets, why_not, within
from feinschliff.kit.errors import NotFound, Unavailable, WrongState
from tests.unit.inference.builders import BASE, DIGEST, MODEL, PROJECT, deployment, failed, ready, version

V1, V2, PRODUCTION = f"{MODEL}/versions/1", f"{MODEL}/versions/2", f"{MODEL}@production"
D = f"{PROJECT}/deployments/d"
LOADING = RouteStatus(state=RouteState.LOADING)


def answering(model: str, *deployments: object, sticky: str = "") -> list[str]:
    return [found.version.name if found.version else BASE for found in targets(model, deployments, sticky)]  # type: ignore[arg-type]


def test_a_deployment_without_routes_answers_with_its_base() -> None:
    assert answering(D, deployment()) == [BASE]


def test_a_deployment_answers_with_its_route() -> None:
    assert answering(D, deployment(routes={"a": (V1, ready(1))})) == [V1]


def test_weights_share_the_calls_that_name_the_deployment() -> None:
    both = deployment(routes={"a": (V1, ready(1)), "b": (V2, ready(2))}, weights={"a": 1, "b": 3})
    answers = [answering(D, both, sticky=str(step))[0] for step in range(2000)]
    assert answers.count(V1) + answers.count(V2) == 2000
    assert answers.count(V1) == pytest.approx(500, abs=60)


def test_a_shadow_has_no_share_whatever_its_weight() -> None:
    both = deployment(routes={"a": (V1, ready(1)), "b": (V2, ready(2))}, shadows=["b"])
    assert {answering(D, both, sticky=str(step))[0] for step in range(50)} == {V1}
    assert answering(V2, both) == [V2]
    assert answering(D, deployment(routes={"b": (V2, ready(2))}, shadows=["b"])) == [BASE]


def test_routes_that_are_not_loaded_take_no_calls() -> None:
    both = deployment(routes={"a": (V1, LOADING), "b": (V2, ready(2))})
    assert {answering(D, both, sticky=str(step))[0] for step in range(10)} == {V2}


def test_weights_of_zero_leave_the_calls_to_the_base() -> None:
    assert answering(D, deployment(routes={"a": (V1, ready(1))}, weights={"a": 0})) == [BASE]


def test_a_deployment_whose_routes_all_load_answers_nothing_by_its_name() -> None:
    assert answering(D, deployment(routes={"a": (V1, LOADING)})) == []


def test_a_version_is_answered_where_it_is_loaded_and_by_nothing_else() -> None:
    one, two = deployment("d", routes={"a": (V1, ready(1))}), deployment("e", routes={"a": (V2, ready(2))})
    assert answering(V2, one, two) == [V2]
    assert answering(f"{MODEL}/versions/3", one, two) == []


def test_an_alias_is_answered_with_what_its_route_serves_at_present() -> None:
    follows = deployment(routes={"a": (PRODUCTION, ready(1))})
    assert answering(PRODUCTION, follows) == [V1]
    assert answering(V1, follows) == [V1]
    assert answering(f"{MODEL}@other", follows) == []


def test_a_base_is_answered_by_every_deployment_of_it() -> None:
    assert answering(BASE, deployment("d"), deployment("e"), deployment("f", base="file:/other")) == [BASE, BASE]


def test_a_base_is_answered_by_the_callers_own_project_and_by_no_other() -> None:
    shared = [deployment("d"), deployment("e", project="other"), deployment("f", project="other")]
    assert [one.name for one in within(shared, BASE, "projects/other")] == [shared[1].name, shared[2].name]
    assert within(shared, BASE, "projects/third") == []
    assert why_not(BASE, within(shared, BASE, "projects/third")).reason == "MODEL_NOT_LOADED"


def test_who_does_not_say_for_whom_is_answered_while_one_project_alone_serves_the_base() -> None:
    alone = [deployment("d"), deployment("e"), deployment("f", project="other", base="file:/other")]
    assert within(alone, BASE, "") == alone
    gone = deployment("g", project="other", replicas=0)
    assert answering(BASE, *within([*alone, gone], BASE, "")) == [BASE, BASE]
    with pytest.raises(WrongState) as refused:
        within([*alone, deployment("g", project="other")], BASE, "")
    assert (refused.value.reason, refused.value.metadata["projects"]) == ("PROJECT_NEEDED", "2")
    assert within([*alone, deployment("g", project="other")], D, "")


@pytest.mark.parametrize("model", [D, V1, PRODUCTION])
def test_what_is_another_projects_is_unknown_to_a_caller(model: str) -> None:
    with pytest.raises(NotFound, match=model) as refused:
        within([deployment()], model, "projects/other")
    assert refused.value.reason == "MODEL_UNKNOWN"
    assert within([deployment()], model, PROJECT)


@pytest.mark.parametrize("change", [{"state": State.DELETING}, {"replicas": 0}])
def test_what_is_not_wanted_any_more_answers_nothing(change: dict[str, object]) -> None:
    gone = deployment(routes={"a": (V1, ready(1))}, **change)  # type: ignore[arg-type]
    assert [answering(model, gone) for model in (D, V1, BASE)] == [[], [], []]
    assert isinstance(why_not(V1, [gone]), WrongState)


@pytest.mark.parametrize("state", [State.PENDING, State.LOADING])
@pytest.mark.parametrize("model", [D, BASE, V1])
def test_what_is_being_loaded_is_refused_with_a_delay(state: State, model: str) -> None:
    refusal = why_not(model, [deployment(state=state, routes={"a": (V1, LOADING)})])
    assert isinstance(refusal, Unavailable)
    assert refusal.reason == "MODEL_LOADING"
    assert refusal.retry_after_seconds


@pytest.mark.parametrize("model", [BASE, V1, PRODUCTION, "hf:org/name"])
def test_what_no_deployment_serves_is_not_loaded(model: str) -> None:
    refusal = why_not(model, [deployment(base="file:/other")])
    assert isinstance(refusal, WrongState)
    assert refusal.reason == "MODEL_NOT_LOADED"
    assert refusal.advice


@pytest.mark.parametrize("model", [D, "gpt-4", "projects/default/datasets/x", ""])
def test_what_is_no_model_at_all_is_unknown(model: str) -> None:
    refusal = why_not(model, [deployment("other")])
    assert isinstance(refusal, NotFound)
    assert refusal.reason == "MODEL_UNKNOWN"


def test_a_route_that_failed_says_why() -> None:
    broken = deployment(state=State.DEGRADED, routes={"a": (V1, failed("BASE_DIGEST_MISMATCH")), "b": (V2, ready(2))})
    refusal = why_not(V1, [broken])
    assert (refusal.reason, refusal.metadata["cause"]) == ("MODEL_NOT_LOADED", "BASE_DIGEST_MISMATCH")


def test_a_deployment_that_failed_says_why() -> None:
    failure = Failure(reason="BASE_NOT_INSTALLED", message="Run pip.", advice=("pip install x",))
    refusal = why_not(D, [deployment(state=State.FAILED, failure=failure)])
    assert (refusal.reason, refusal.metadata["cause"]) == ("MODEL_NOT_LOADED", "BASE_NOT_INSTALLED")
    assert refusal.advice == ("pip install x",)


def test_only_deployments_of_the_project_and_base_that_load_on_demand_are_hosts() -> None:
    wanted = version(1)
    assert is_host(deployment(on_demand=True), wanted)
    assert is_host(deployment(on_demand=True, base="file:/same-weights"), wanted)
    assert not is_host(deployment(on_demand=False), wanted)
    assert not is_host(deployment(on_demand=True, project="other"), wanted)
    assert not is_host(deployment(on_demand=True, base="file:/other", digest="sha256:other"), wanted)
    assert not is_host(deployment(on_demand=True, state=State.DELETING), wanted)


def test_adapters_of_routes_are_pinned_on_their_base() -> None:
    key = BaseKey(DIGEST, "fp32")
    routed = deployment(routes={"a": (V1, ready(1)), "b": (V2, LOADING)})
    assert pinned_on(key, [routed, deployment("e", digest="sha256:other", routes={"a": (V2, ready(2))})]) == {
        "sha256:m1"
    }
