"""When a canary goes, as tables: how many calls it takes, what counts, and what is written down."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from feinschliff.inference.canary import CanaryPolicy, Cause, Outcome, decide, percentile, policy_violations
from feinschliff.inference.engine import Finish
from feinschliff.inference.life import Deployment, Status, TrafficChange
from feinschliff.inference.observed import CALLS_KEPT, Observations
from feinschliff.inference.rollbacks import judge
from feinschliff.kit.clock import ManualClock
from tests.unit.inference.builders import MODEL, MOMENT, deployment, ready

POLICY = CanaryPolicy(route="new", calls_min=50)
OLD, NEW, THIRD = (f"{MODEL}/versions/{number}" for number in (1, 2, 3))


def calls(
    count: int, *, failed: int = 0, hits: int = 0, first: float = 0.1, further: float = 0.02, slow: int = 0
) -> list[Outcome]:
    """So many calls, the first of them failed, with a guard's finding, or ten times as slow."""
    return [
        Outcome(
            MOMENT,
            failed=place < failed,
            first_token_seconds=None if place < failed else first * (10 if place < slow else 1),
            next_token_seconds=None if place < failed else further * (10 if place < slow else 1),
            guard_hit=place < hits,
        )
        for place in range(count)
    ]


@pytest.mark.parametrize(
    ("canary", "others", "cause"),
    [
        (calls(50), calls(50), None),
        (calls(49, failed=49), calls(500), None),  # too few of its own
        (calls(500, failed=500), calls(49), None),  # too few to compare with
        (calls(50, failed=10), calls(50), Cause.ERRORS),
        (calls(50, failed=3), calls(50), None),  # by chance one sees that
        (calls(50, failed=3), calls(450), Cause.ERRORS),  # with so many others it is none
        (calls(500, failed=10), calls(500), None),  # two in a hundred more are allowed
        (calls(500, failed=100), calls(500, failed=100), None),  # all fail alike: not the canary
        (calls(50), calls(50, failed=50), None),
        (calls(100, hits=30), calls(100, hits=2), Cause.GUARD_HITS),
        (calls(100, hits=5), calls(100), None),
        (calls(100, first=0.21), calls(100), Cause.FIRST_TOKEN),
        (calls(100, first=0.2), calls(100), None),
        (calls(100, further=0.05), calls(100), Cause.NEXT_TOKEN),
        (calls(100, slow=5), calls(100), None),  # one in twenty is beyond the percentile
        (calls(100, slow=6), calls(100), Cause.FIRST_TOKEN),
        (calls(100, slow=6), calls(100, slow=6), None),
        (calls(60, failed=20, slow=40), calls(60, failed=20), None),  # 40 that answered are too few to time
    ],
)
def test_a_canary_goes_when_it_does_worse_than_the_others_by_more_than_chance(
    canary: Sequence[Outcome], others: Sequence[Outcome], cause: Cause | None
) -> None:
    verdict = decide(POLICY, canary, others)
    assert (verdict.cause if verdict else None) == cause


@pytest.mark.parametrize(
    ("changes", "canary", "goes"),
    [
        ({"errors_max": 0.5}, calls(100, failed=40), False),
        ({"errors_max": 0.0}, calls(100, failed=12), True),
        ({"guard_hits_max": 1.0}, calls(100, hits=100), False),
        ({"first_token_ratio_max": 0.0, "next_token_ratio_max": 0.0}, calls(100, slow=100), False),
        ({"first_token_ratio_max": 20.0}, calls(100, first=1.0), False),
        ({"calls_min": 1000}, calls(999, failed=999), False),
    ],
)
def test_a_policy_says_how_much_worse(changes: dict[str, float], canary: Sequence[Outcome], goes: bool) -> None:
    assert (decide(POLICY.model_copy(update=changes), canary, calls(2000)) is not None) is goes


def test_the_reason_has_the_numbers() -> None:
    errors = decide(POLICY, calls(50, failed=10), calls(200, failed=1))
    assert errors is not None
    assert errors.reason == (
        "10 of 50 calls failed (20.0%), of the other routes' 1 of 200 (0.5%); 2.0% more are allowed."
    )
    slow = decide(POLICY, calls(60, first=0.5), calls(80))
    assert slow is not None
    assert slow.reason == (
        "It takes 0.5 s to the first token at the 95th percentile of 60 calls, the other routes 0.1 s of 80; "
        "2 times as long is allowed."
    )


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert [percentile(range(1, 101), share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
    assert percentile([7.0], 0.95) == 7.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("route", "shadow"),
        ("route", ""),
        ("window_seconds", 5.0),
        ("window_seconds", float("nan")),
        ("calls_min", 9),
        ("calls_min", 1001),
        ("errors_max", 1.5),
        ("guard_hits_max", -0.1),
        ("first_token_ratio_max", 0.5),
        ("next_token_ratio_max", float("inf")),
    ],
)
def test_a_policy_out_of_range_is_refused_by_its_field(field: str, value: object) -> None:
    wrong = policy_violations(POLICY.model_copy(update={field: value}), ["old", "new"], "deployment.canary")
    assert [one.field for one in wrong] == [f"deployment.canary.{field}"]
    assert policy_violations(POLICY, ["old", "new"], "deployment.canary") == []


class Seen:
    """A deployment with a canary, and calls on its routes."""

    def __init__(self) -> None:
        self.clock = ManualClock(MOMENT)
        self.observations = Observations(self.clock)
        self.deployment = deployment(
            routes={"old": (OLD, ready(1)), "new": (NEW, ready(2)), "third": (THIRD, ready(3))},
            shadows=["third"],
            canary=POLICY,
        )

    def call(self, route: str, *, finish: Finish = Finish.STOP, count: int = 60) -> None:
        for _ in range(count):
            self.observations.watch(self.deployment.name, route).ended(finish, (0.0, 0.1, 0.5), 5)

    def cause(self, of: Deployment | None = None) -> Cause | None:
        verdict = judge(of or self.deployment, self.observations, self.clock.now())
        return verdict.cause if verdict else None

    def weighed(self, **weights: float) -> Deployment:
        routes = tuple(one.model_copy(update={"weight": weights[one.id]}) for one in self.deployment.spec.routes)
        return self.deployment._replace(spec=self.deployment.spec.model_copy(update={"routes": routes}))


@pytest.fixture
def seen() -> Seen:
    made = Seen()
    made.clock.advance(1)
    return made


def test_calls_of_the_window_are_judged_and_older_ones_forgotten(seen: Seen) -> None:
    seen.call("old")
    seen.call("new", finish=Finish.FAILED)
    assert seen.cause() is Cause.ERRORS
    seen.clock.advance(POLICY.window_seconds - 1)
    assert seen.cause() is Cause.ERRORS
    seen.clock.advance(2)
    assert seen.cause() is None


def test_calls_before_the_latest_change_of_shares_do_not_count(seen: Seen) -> None:
    seen.call("old")
    seen.call("new", finish=Finish.FAILED)
    change = TrafficChange(time=seen.clock.now(), weights={"old": 9, "new": 1})
    status: Status = seen.deployment.status.model_copy(update={"traffic": (change,)})
    assert seen.cause(seen.deployment._replace(status=status)) is None


@pytest.mark.parametrize(
    ("weights", "cause"),
    [
        ({"old": 1, "new": 1, "third": 1}, Cause.ERRORS),
        ({"old": 1, "new": 0, "third": 1}, None),  # out of traffic already
        ({"old": 0, "new": 1, "third": 1}, None),  # nothing to compare it with, and nothing that could take over
    ],
)
def test_only_a_canary_in_traffic_beside_others_is_judged(
    seen: Seen, weights: dict[str, float], cause: Cause | None
) -> None:
    for route in ("old", "third"):
        seen.call(route)
    seen.call("new", finish=Finish.FAILED)
    assert seen.cause(seen.weighed(**weights)) == cause


def test_what_a_client_broke_off_does_not_count_but_a_guards_finding_in_it_does(seen: Seen) -> None:
    seen.call("new", finish=Finish.CANCELLED)
    assert seen.observations.of(seen.deployment.name, ["new"], MOMENT) == []
    watch = seen.observations.watch(seen.deployment.name, "new")
    watch.guard_hit()
    watch.ended(Finish.CANCELLED, (0, 0, 0), 0)
    assert [one.guard_hit for one in seen.observations.of(seen.deployment.name, ["new"], MOMENT)] == [True]


def test_a_call_is_timed_to_its_first_token_and_for_each_further_one(seen: Seen) -> None:
    watch = seen.observations.watch(seen.deployment.name, "new")
    watch.ended(Finish.LENGTH, (10.0, 10.5, 12.5), 5)
    watch.guard_hit()
    seen.observations.watch(seen.deployment.name, "new").ended(Finish.STOP, (10.0, 10.5, 10.5), 1)
    first, second = seen.observations.of(seen.deployment.name, ["new"], MOMENT)
    assert (first.first_token_seconds, first.next_token_seconds, first.guard_hit) == (0.5, 0.5, True)
    assert (second.first_token_seconds, second.next_token_seconds) == (0.5, None)


def test_what_is_kept_is_bounded_and_goes_with_its_deployment(seen: Seen) -> None:
    seen.call("new", count=CALLS_KEPT + 10)
    assert len(seen.observations.of(seen.deployment.name, ["new"], MOMENT)) == CALLS_KEPT
    seen.observations.keep_only({seen.deployment.name})
    assert seen.observations.of(seen.deployment.name, ["new"], MOMENT)
    seen.observations.keep_only(set())
    assert seen.observations.of(seen.deployment.name, ["new"], MOMENT) == []
