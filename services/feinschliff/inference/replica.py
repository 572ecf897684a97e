"""What this copy holds and does for a deployment."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import psutil

from feinschliff.inference.life import Deployment
from feinschliff.inference.pool import Pool
from feinschliff.inference.requests import refuse
from feinschliff.inference.targets import key_of
from feinschliff.inference.traffic import DRAIN_SECONDS_DEFAULT, DRAIN_SECONDS_MAX, Calls, Traffic
from feinschliff.kit.errors import FieldViolation, NotFound


class Held(NamedTuple):
    """One deployment on this copy."""

    replica_id: str
    is_draining: bool
    base_digest: str
    adapter_digests: list[str]
    calls: Calls
    memory_bytes: int
    device_memory_bytes: int
    started: datetime


class Replica:
    """This copy; what is said of it lasts as long as its process."""

    def __init__(self, replica_id: str, started: datetime, pool: Pool, traffic: Traffic) -> None:
        self._id = replica_id
        self._started = started
        self._pool = pool
        self._traffic = traffic

    def held(self, deployment: Deployment) -> Held | None:
        """None where nothing of the deployment is loaded here."""
        key = key_of(deployment)
        engine = self._pool.engine(key) if key else None
        if key is None or engine is None or not deployment.is_wanted:
            return None
        device = engine.capacity().device_memory
        return Held(
            replica_id=self._id,
            is_draining=self._traffic.is_draining(deployment),
            base_digest=key.digest,
            adapter_digests=sorted(self._pool.loaded_adapters(key)),
            calls=self._traffic.calls(deployment.name),
            memory_bytes=psutil.Process().memory_info().rss,
            device_memory_bytes=device.used_bytes if device else 0,
            started=self._started,
        )

    def drain(self, deployment: Deployment, replica_id: str, timeout_seconds: float, *, undo: bool) -> None:
        """Takes the deployment out of traffic here, or puts it back.

        Raises:
            NotFound: REPLICA_UNKNOWN.
            Invalid: REQUEST_INVALID.
        """
        if replica_id not in ("", self._id):
            raise NotFound(
                "REPLICA_UNKNOWN",
                f"This copy is {self._id}; it knows nothing of {replica_id[:200]!r}.",
                advice=["Ask GetReplicaState for the ids; call the copy itself where there are several."],
                replica=replica_id[:200],
            )
        if not 0 <= timeout_seconds <= DRAIN_SECONDS_MAX:
            message = f"timeout_seconds must be 0 to {DRAIN_SECONDS_MAX:g}, not {timeout_seconds:g}."
            refuse([FieldViolation("timeout_seconds", message, "OUT_OF_RANGE")])
        if undo:
            self._traffic.undrain(deployment)
        else:
            self._traffic.drain(deployment, timeout_seconds or DRAIN_SECONDS_DEFAULT)
