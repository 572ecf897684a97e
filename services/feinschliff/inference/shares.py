"""The shares of traffic between the routes of a deployment: changed all at once, and remembered with their reason."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime

from feinschliff.inference.life import Deployment, Origin, Route, Spec, State, Status, TrafficChange
from feinschliff.inference.requests import refuse
from feinschliff.kit.errors import FieldViolation

logger = logging.getLogger(__name__)

CHANGES_KEPT = 32
REASON_CHARACTERS_MAX = 1024
WEIGHT_MAX = 1000


def with_weights(spec: Spec, weights: Mapping[str, float]) -> Spec:
    """The same routes with these shares; one that is left out gets 0.

    Raises:
        Invalid: REQUEST_INVALID for a weight out of range, or a route that is not there.
    """
    known = {route.id for route in spec.routes}
    wrong = []
    for route_id, weight in weights.items():
        path = f"weights[{route_id[:80]}]"
        if route_id not in known:
            wrong.append(FieldViolation(path, f"The deployment has no route {route_id[:80]!r}.", "ROUTE_UNKNOWN"))
        elif not 0 <= weight <= WEIGHT_MAX:
            message = f"A weight must be 0 to {WEIGHT_MAX}, not {weight:g}."
            wrong.append(FieldViolation(path, message, "OUT_OF_RANGE"))
    refuse(wrong)
    routes = tuple(route.model_copy(update={"weight": weights.get(route.id, 0.0)}) for route in spec.routes)
    return spec.model_copy(update={"routes": routes})


def refuse_long_reason(reason: str) -> None:
    """Raises Invalid REQUEST_INVALID."""
    if len(reason) > REASON_CHARACTERS_MAX:
        message = f"A reason has at most {REASON_CHARACTERS_MAX} characters, not {len(reason)}."
        refuse([FieldViolation("reason", message, "OUT_OF_RANGE")])


def status_after(
    deployment: Deployment, spec: Spec, now: datetime, *, reason: str = "", origin: Origin = Origin.CALLER
) -> Status:
    """The status of a deployment of which `spec` is wanted from now on.

    Where more or less is wanted it is LOADING until the reconciler has seen to it. Where shares differ the change is
    remembered, and a route that gets a share again is not rolled back any more.
    """
    status = deployment.status
    if _loaded(deployment.spec) != _loaded(spec):
        status = status.model_copy(update={"state": State.LOADING, "failure": None})
    weights = weights_of(spec)
    if weights == weights_of(deployment.spec):
        return status
    change = TrafficChange(time=now, weights=weights, reason=reason, origin=origin)
    routes = {
        key: one.model_copy(update={"rolled_back": None}) if weights.get(key, 0) > 0 else one
        for key, one in status.routes.items()
    }
    changes = (change, *status.traffic)[:CHANGES_KEPT]
    return status.model_copy(update={"traffic": changes, "routes": routes})


def tell_change(deployment: Deployment, before: Deployment) -> None:
    """One line in the log for each change of shares."""
    if deployment.status.traffic != before.status.traffic:
        change = deployment.status.traffic[0]
        logger.info(
            "traffic changed",
            extra={
                "deployment": deployment.name,
                "weights": change.weights,
                "before": weights_of(before.spec),
                "reason": change.reason,
                "origin": change.origin.value,
            },
        )


def weights_of(spec: Spec) -> dict[str, float]:
    """Shares by route id; a shadow has none."""
    return {route.id: route.weight for route in spec.routes if not route.shadow}


def _loaded(spec: Spec) -> tuple[tuple[tuple[str, str], ...], int]:
    """What of a spec decides about what is loaded."""
    return tuple(_place(route) for route in spec.routes), spec.replicas


def _place(route: Route) -> tuple[str, str]:
    return route.id, route.model_version
