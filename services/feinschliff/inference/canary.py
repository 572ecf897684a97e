"""When a new route is taken out of traffic: what was seen of it and of the others, and a rule over the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from pydantic import ConfigDict

from feinschliff.formats.base import Stored
from feinschliff.kit.errors import FieldViolation

_CHANCE = 3.0
"""Standard errors that a difference of shares must reach; many, because it is looked at again and again."""


class Cause(StrEnum):
    """What was worse; the order is that in which it is looked at."""

    ERRORS = "errors"
    GUARD_HITS = "guard_hits"
    FIRST_TOKEN = "first_token"
    NEXT_TOKEN = "next_token"


class CanaryPolicy(Stored):
    """See the message of that name; a ratio of 0 is not looked at. Bounds are checked by `policy_violations`."""

    model_config = ConfigDict(allow_inf_nan=True)

    route: str
    window_seconds: float = 600.0
    calls_min: int = 50
    errors_max: float = 0.02
    first_token_ratio_max: float = 2.0
    next_token_ratio_max: float = 2.0
    guard_hits_max: float = 0.05


class Rollback(Stored):
    """Why a route was taken out of traffic."""

    cause: Cause
    reason: str
    time: datetime


class Outcome(NamedTuple):
    """One call that ended; the seconds are None where it never came to that."""

    time: datetime
    failed: bool = False
    first_token_seconds: float | None = None
    next_token_seconds: float | None = None  # on average over its answer
    guard_hit: bool = False


class Verdict(NamedTuple):
    cause: Cause
    reason: str


def policy_violations(policy: CanaryPolicy, routes: Sequence[str], path: str) -> list[FieldViolation]:
    """Every value out of its range, with its path.

    Args:
        routes: ids of the routes that are no shadows.
    """
    wrong: list[FieldViolation] = []

    def require(fine: bool, field: str, rule: str) -> None:
        if not fine:
            wrong.append(FieldViolation(f"{path}.{field}", f"{field} must be {rule}.", "OUT_OF_RANGE"))

    require(policy.route in routes, "route", f"a route of the deployment that is no shadow, not {policy.route[:80]!r}")
    require(10 <= policy.window_seconds <= 86400, "window_seconds", f"10 to 86400, not {policy.window_seconds:g}")
    require(10 <= policy.calls_min <= 1000, "calls_min", f"10 to 1000, not {policy.calls_min}")
    for field in ("errors_max", "guard_hits_max"):
        value = getattr(policy, field)
        require(0 <= value <= 1, field, f"0 to 1, not {value:g}")
    for field in ("first_token_ratio_max", "next_token_ratio_max"):
        value = getattr(policy, field)
        require(value == 0 or 1 <= value <= 100, field, f"0, or 1 to 100, not {value:g}")
    return wrong


def decide(policy: CanaryPolicy, canary: Sequence[Outcome], others: Sequence[Outcome]) -> Verdict | None:
    """Whether the canary does so much worse than the others that it must go, and why; None lets it be.

    Args:
        canary, others: calls within the policy's window, all under the present shares.
    """
    if min(len(canary), len(others)) < policy.calls_min:
        return None
    return (
        _more_often(Cause.ERRORS, "failed", policy.errors_max, _failures(canary), _failures(others))
        or _more_often(Cause.GUARD_HITS, "met a guard", policy.guard_hits_max, _hits(canary), _hits(others))
        or _slower(
            Cause.FIRST_TOKEN,
            "to the first token",
            policy.first_token_ratio_max,
            [one.first_token_seconds for one in canary],
            [one.first_token_seconds for one in others],
            policy.calls_min,
        )
        or _slower(
            Cause.NEXT_TOKEN,
            "for a further token",
            policy.next_token_ratio_max,
            [one.next_token_seconds for one in canary],
            [one.next_token_seconds for one in others],
            policy.calls_min,
        )
    )


class Share(NamedTuple):
    """Some of all."""

    some: int
    all: int

    @property
    def value(self) -> float:
        return self.some / self.all


def _failures(calls: Sequence[Outcome]) -> Share:
    return Share(sum(one.failed for one in calls), len(calls))


def _hits(calls: Sequence[Outcome]) -> Share:
    return Share(sum(one.guard_hit for one in calls), len(calls))


def _more_often(cause: Cause, what: str, limit: float, canary: Share, others: Share) -> Verdict | None:
    difference = canary.value - others.value
    if difference <= limit or not _is_beyond_chance(canary, others):
        return None
    return Verdict(
        cause,
        f"{canary.some} of {canary.all} calls {what} ({canary.value:.1%}), of the other routes' {others.some} of "
        f"{others.all} ({others.value:.1%}); {limit:.1%} more are allowed.",
    )


def _is_beyond_chance(canary: Share, others: Share) -> bool:
    """A one-sided test of two shares, by the normal approximation of their difference."""
    pooled = (canary.some + others.some) / (canary.all + others.all)
    error = math.sqrt(pooled * (1 - pooled) * (1 / canary.all + 1 / others.all))
    return canary.value > others.value and canary.value - others.value >= _CHANCE * error


def _slower(
    cause: Cause,
    what: str,
    limit: float,
    canary: Sequence[float | None],
    others: Sequence[float | None],
    calls_min: int,
) -> Verdict | None:
    mine, theirs = [one for one in canary if one is not None], [one for one in others if one is not None]
    if limit == 0 or min(len(mine), len(theirs)) < calls_min:
        return None
    slow, usual = percentile(mine, 0.95), percentile(theirs, 0.95)
    if slow <= limit * usual:
        return None
    return Verdict(
        cause,
        f"It takes {slow:.3g} s {what} at the 95th percentile of {len(mine)} calls, the other routes {usual:.3g} s of "
        f"{len(theirs)}; {limit:g} times as long is allowed.",
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many of all do not exceed; `values` is not empty."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
