"""Copies of calls for shadow routes: run while the engine has nothing else to do, counted, and never returned."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from feinschliff.inference.engine import Delta, Done, Event, Finish, GenerationRequest
from feinschliff.inference.life import RouteState, Version
from feinschliff.inference.models import Granted, context_of
from feinschliff.inference.pool import Lease, Pool
from feinschliff.kit.context import current_request_id
from feinschliff.kit.errors import Refusal
from feinschliff.kit.metrics import Metrics

logger = logging.getLogger(__name__)

_OUTCOMES = {Finish.STOP: "answered", Finish.LENGTH: "answered", Finish.CANCELLED: "dropped", Finish.FAILED: "failed"}


class Shadow(NamedTuple):
    """A shadow route that is loaded."""

    route: str
    version: Version


class Shadows:
    """Begins copies; whatever becomes of them, the call that they copy does not notice.

    Args:
        copies_max: copies that wait or run at once; more are dropped.
    """

    def __init__(self, pool: Pool, metrics: Metrics, *, copies_max: int) -> None:
        self._pool = pool
        self._metrics = metrics
        self._copies_max = copies_max
        self._lock = threading.Lock()
        self._copies = 0

    def copy_after(self, granted: Granted, request: GenerationRequest) -> None:
        """Gives every shadow route of the deployment a copy once the call has ended."""
        if shadows := shadows_of(granted):
            request_id = current_request_id()
            granted.lease.when_given_back(lambda _: self._copy(shadows, granted, request, request_id))

    def _copy(self, shadows: Sequence[Shadow], granted: Granted, request: GenerationRequest, request_id: str) -> None:
        for shadow in shadows:
            try:
                self._begin(shadow, granted, request, request_id)
            except Refusal:
                self.count(Finish.CANCELLED)
            except Exception:
                logger.exception("a shadow's copy did not begin", extra={"deployment": granted.deployment.name})
                self.count(Finish.FAILED)

    def _begin(self, shadow: Shadow, granted: Granted, request: GenerationRequest, request_id: str) -> None:
        digest = shadow.version.adapter_digest
        lease = self._pool.acquire(granted.lease.key, digest)
        if lease is None or not self._take():
            self.count(Finish.CANCELLED)
            if lease is not None:
                lease.give_back()
            return
        lease.when_given_back(self._put_back)
        try:
            left = context_of(lease.engine, granted.deployment, digest) - len(request.prompt_ids)
            copied = dataclasses.replace(
                request,
                adapter_digest=digest,
                max_tokens=max(1, min(request.max_tokens, left)),
                stop_token_ids=shadow.version.stop_token_ids,
                logprobs=None,
                tenant=granted.deployment.project,
                is_background=True,
            )
            if left < 1 or lease.engine.head(digest) is not None:
                self.count(Finish.FAILED)  # it could not have answered this call
                lease.give_back()
                return
            answer = _Answer(self, shadow, granted.deployment.name, lease, request_id)
            lease.engine.generate(copied, answer.take)
        except BaseException:
            lease.give_back()
            raise

    def count(self, finish: Finish) -> None:
        self._metrics.counter("feinschliff_inference_shadow_requests_total").labels(_OUTCOMES[finish]).inc()

    def _take(self) -> bool:
        with self._lock:
            if self._copies >= self._copies_max:
                return False
            self._copies += 1
            return True

    def _put_back(self, _: Lease) -> None:
        with self._lock:
            self._copies -= 1


class _Answer:
    """One copy's answer; told by the engine's thread."""

    def __init__(self, shadows: Shadows, shadow: Shadow, deployment: str, lease: Lease, request_id: str) -> None:
        self._shadows = shadows
        self._shadow = shadow
        self._deployment = deployment
        self._lease = lease
        self._request_id = request_id
        self._began = time.monotonic()
        self._text = hashlib.sha256()

    def take(self, event: Event) -> None:
        if isinstance(event, Delta | Done):
            self._text.update(event.text.encode())
        if not isinstance(event, Done):
            return
        self._lease.give_back()
        self._shadows.count(event.finish)
        logger.info(
            "shadow answered" if _OUTCOMES[event.finish] == "answered" else "shadow did not answer",
            extra={
                "deployment": self._deployment,
                "route": self._shadow.route,
                "model_version": self._shadow.version.name,
                "copy_of": self._request_id,
                "finish": event.finish.value,
                "completion_tokens": event.completion_tokens,
                "seconds": round(time.monotonic() - self._began, 6),
                "text_sha256": self._text.hexdigest(),
            },
        )


def shadows_of(granted: Granted) -> list[Shadow]:
    """The shadow routes of the deployment that are loaded beside what answers."""
    statuses = granted.deployment.status.routes
    return [
        Shadow(route.id, status.serving)
        for route in granted.deployment.spec.routes
        if route.shadow
        and (status := statuses.get(route.id)) is not None
        and status.state is RouteState.READY
        and status.serving is not None
    ]
