"""Looks at the canaries, and takes those out of traffic that do worse than the other routes."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from feinschliff.inference import store
from feinschliff.inference.canary import Rollback, Verdict, decide
from feinschliff.inference.deployments import etag_of
from feinschliff.inference.life import Deployment, Origin, RouteStatus
from feinschliff.inference.observed import Observations
from feinschliff.inference.shares import status_after, tell_change, weights_of, with_weights
from feinschliff.inference.view import View
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Conflict
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.watch import Wake

logger = logging.getLogger(__name__)


class Rollbacks:
    """One `turn` at a time. Every copy judges by the calls that it answered itself."""

    def __init__(
        self,
        database: Database,
        observations: Observations,
        view: View,
        metrics: Metrics,
        *,
        clock: Clock,
        wake: Wake,
    ) -> None:
        self._database = database
        self._observations = observations
        self._view = view
        self._metrics = metrics
        self._clock = clock
        self._wake = wake

    def turn(self) -> None:
        deployments = self._view.all()
        self._observations.keep_only({one.name for one in deployments})
        for deployment in deployments:
            verdict = judge(deployment, self._observations, self._clock.now())
            if verdict is not None:
                self._roll_back(deployment, verdict)

    def _roll_back(self, seen: Deployment, verdict: Verdict) -> None:
        policy = seen.spec.canary
        assert policy is not None, "who has no policy is not judged"
        with self._database.transaction() as session:
            now = store.find(session, seen.name, lock=True)
            if now is None or etag_of(now) != etag_of(seen):
                return  # someone wrote meanwhile: the next turn sees what is wanted now
            moment = self._clock.now()
            spec = with_weights(now.spec, {**weights_of(now.spec), policy.route: 0.0})
            reason = f"{policy.route} is rolled back: {verdict.reason}"
            status = status_after(now, spec, moment, reason=reason, origin=Origin.ROLLBACK)
            rollback = Rollback(cause=verdict.cause, reason=verdict.reason, time=moment)
            route = status.routes.get(policy.route, RouteStatus()).model_copy(update={"rolled_back": rollback})
            status = status.model_copy(update={"routes": {**status.routes, policy.route: route}})
            try:
                store.write_spec(session, now, spec, status, moment)
            except Conflict:
                return
            after = store.find(session, seen.name)
        if after is None:
            return
        self._metrics.counter("feinschliff_inference_canary_rollbacks_total").labels(verdict.cause.value).inc()
        extra = {"deployment": seen.name, "route": policy.route, "cause": verdict.cause.value, "why": verdict.reason}
        logger.warning("canary is rolled back", extra=extra)
        tell_change(after, now)
        self._view.put(after)
        self._wake.notify()


def judge(deployment: Deployment, observations: Observations, now: datetime) -> Verdict | None:
    """What the policy says of the canary; None where there is none in traffic, or nothing to compare it with."""
    policy, weights = deployment.spec.canary, weights_of(deployment.spec)
    if policy is None or not deployment.is_wanted or not weights.get(policy.route, 0) > 0:
        return None
    others = [route for route, weight in weights.items() if weight > 0 and route != policy.route]
    changed = deployment.status.traffic[0].time if deployment.status.traffic else deployment.created
    since = max(changed, now - timedelta(seconds=policy.window_seconds))
    canary = observations.of(deployment.name, [policy.route], since)
    return decide(policy, canary, observations.of(deployment.name, others, since))
