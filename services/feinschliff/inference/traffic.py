"""The calls that run on this copy, by deployment, and the deployments that it takes no more calls for."""

from __future__ import annotations

import logging
import threading
from datetime import datetime
from typing import NamedTuple

from feinschliff.inference.life import Deployment
from feinschliff.inference.pool import Lease
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import Exhausted, Unavailable

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
DRAIN_SECONDS_DEFAULT = 60.0
DRAIN_SECONDS_MAX = 3600.0


class Calls(NamedTuple):
    """How many calls there are of a deployment."""

    running: int
    waiting: int


class Draining(NamedTuple):
    """A deployment that is out of traffic here; `created` tells it from a later one of the same name."""

    created: datetime
    until: float  # monotonic seconds; from then on calls are ended


class Account(NamedTuple):
    """What a limit of calls counts: the calls of a project, or of a deployment that has a limit of its own."""

    name: str
    calls_max: int | None


class Traffic:
    """Who comes in; every method may be called from any thread and returns at once.

    Args:
        project_requests_max: calls of one project that may run or wait at once; 0 is no limit.
    """

    def __init__(self, clock: Clock, *, project_requests_max: int = 0) -> None:
        self._clock = clock
        self._project_requests_max = project_requests_max
        self._lock = threading.Lock()
        self._open: dict[Lease, tuple[str, str]] = {}  # deployment and account of each
        self._draining: dict[str, Draining] = {}

    def enter(self, deployment: Deployment, lease: Lease, *, is_within_call: bool = False) -> None:
        """Lets a call in; it is counted until its lease is given back.

        Args:
            is_within_call: it is asked on behalf of a call that has its place; it takes none of its own.

        Raises:
            Unavailable: REPLICA_DRAINING.
            Exhausted: PROJECT_LIMIT.
        """
        with self._lock:
            if self._drains(deployment):
                raise draining(deployment.name)
            account = self._account(deployment)
            count = sum(name == account.name for _, name in self._open.values())
            if account.calls_max is not None and count >= account.calls_max and not is_within_call:
                raise _too_many(account, count)
            self._open[lease] = deployment.name, "" if is_within_call else account.name
        lease.call.tenant = deployment.project
        lease.when_given_back(self._leave)

    def is_draining(self, deployment: Deployment) -> bool:
        with self._lock:
            return self._drains(deployment)

    def calls(self, deployment: str) -> Calls:
        with self._lock:
            mine = [lease.call.is_waiting for lease, (name, _) in self._open.items() if name == deployment]
        return Calls(running=len(mine) - sum(mine), waiting=sum(mine))

    def drain(self, deployment: Deployment, timeout_seconds: float) -> None:
        """Takes a deployment out of traffic; what runs then may go on for so long."""
        with self._lock:
            until = self._clock.monotonic() + timeout_seconds
            self._draining[deployment.name] = Draining(deployment.created, until)
        extra = {"deployment": deployment.name, "timeout_seconds": timeout_seconds}
        logger.info("deployment is drained on this copy", extra=extra)

    def undrain(self, deployment: Deployment) -> None:
        """Puts it back into traffic; one that is in traffic stays."""
        with self._lock:
            was_draining = self._draining.pop(deployment.name, None)
        if was_draining:
            logger.info("deployment is back in traffic on this copy", extra={"deployment": deployment.name})

    def end_late(self) -> int:
        """Ends the calls that had their time; how many they were."""
        now = self._clock.monotonic()
        with self._lock:
            late = {name for name, drained in self._draining.items() if now >= drained.until}
            calls = [(lease, name) for lease, (name, _) in self._open.items() if name in late and not lease.call.cut_by]
        for lease, name in calls:
            lease.call.cut(_ended(name))
        if calls:
            logger.warning("calls were ended by a drain", extra={"calls": len(calls), "deployments": sorted(late)})
        return len(calls)

    def _drains(self, deployment: Deployment) -> bool:
        drained = self._draining.get(deployment.name)
        return drained is not None and drained.created == deployment.created

    def _account(self, deployment: Deployment) -> Account:
        if deployment.spec.requests_max is not None:
            return Account(deployment.name, deployment.spec.requests_max)
        return Account(f"projects/{deployment.project}", self._project_requests_max or None)

    def _leave(self, lease: Lease) -> None:
        with self._lock:
            self._open.pop(lease, None)


def draining(deployment: str) -> Unavailable:
    return Unavailable(
        "REPLICA_DRAINING",
        f"This copy takes no more calls for {deployment}; another one answers, or this one later.",
        retry_after_seconds=RETRY_SECONDS,
        deployment=deployment,
    )


def _ended(deployment: str) -> Unavailable:
    return Unavailable(
        "REPLICA_DRAINED",
        f"{deployment} was taken out of traffic on this copy, and the time for running calls is over; call again.",
        retry_after_seconds=RETRY_SECONDS,
        deployment=deployment,
    )


def _too_many(account: Account, count: int) -> Exhausted:
    return Exhausted(
        "PROJECT_LIMIT",
        f"{count} calls of {account.name} run or wait here, as many as may; try again in {RETRY_SECONDS:g} s.",
        retry_after_seconds=RETRY_SECONDS,
        limited=account.name,
        calls=count,
    )
