"""The life of a deployment as data: what is wanted, what is seen, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import ConfigDict, Field

from feinschliff.formats.base import Stored
from feinschliff.inference.canary import CanaryPolicy, Rollback
from feinschliff.inference.guards.guard import Guard
from feinschliff.kit.errors import Refusal, Unavailable

Precision = Literal["auto", "bf16", "fp32", "int8"]
EngineName = Literal["transformers", "vllm"]
NAME = "projects/{project}/deployments/{deployment}"
PROJECT = "projects/{project}"


class State(StrEnum):
    PENDING = "pending"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"
    DELETING = "deleting"


class RouteState(StrEnum):
    PENDING = "pending"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class Failure(Stored):
    """Why something could not be loaded; kept with the deployment."""

    reason: str
    message: str
    advice: tuple[str, ...] = ()
    retryable: bool = False
    metadata: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        if not isinstance(error, Refusal):
            return cls(reason="INTERNAL", message=f"Loading failed: {type(error).__name__}.", retryable=True)
        return cls(
            reason=error.reason,
            message=error.message,
            advice=error.advice,
            retryable=isinstance(error, Unavailable),
            metadata=error.metadata,
        )


class Sampling(Stored):
    """How tokens are drawn; None leaves it to the next one who may say. Bounds are checked by `requests`."""

    model_config = ConfigDict(allow_inf_nan=True)

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] = Field(default_factory=dict)
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def or_else(self, other: Sampling) -> Sampling:
        """These values, and where there are none, those of `other`."""
        mine = {name: value for name, value in self.model_dump().items() if value not in (None, (), {})}
        return Sampling(**{**other.model_dump(), **mine})


class Version(Stored):
    """What serving must know of a registered model version; it never changes.

    `adaptation` is the recipe's name of what made it, empty where that is not known (an import, an older record).
    """

    name: str
    base_model: str
    base_digest: str
    adapter_uri: str
    adapter_sha256: str = ""
    adapter_digest: str
    template_hash: str = ""
    stop_token_ids: tuple[int, ...] = ()
    defaults: Sampling = Sampling()
    adaptation: str = ""
    has_head: bool = False


class Route(Stored):
    """A version, or an alias that is followed, on a deployment. Bounds are checked by `deployments`."""

    model_config = ConfigDict(allow_inf_nan=True)

    id: str
    model_version: str
    weight: float = 1.0
    shadow: bool = False


class Spec(Stored):
    """What is wanted of a deployment; `requests_max` is its own limit in place of its project's. See `deployments`."""

    model_config = ConfigDict(allow_inf_nan=True)

    base_model: str
    routes: tuple[Route, ...] = ()
    engine: EngineName = "transformers"
    precision: Precision = "auto"
    on_demand: bool = False
    on_demand_max: int = 8
    replicas: int = 1
    context_tokens: int | None = None
    defaults: Sampling = Sampling()
    guards: tuple[Guard, ...] = ()
    display_name: str = ""
    refuse_store: bool = False
    canary: CanaryPolicy | None = None
    requests_max: int | None = None
    stored_fraction: float = 0.0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class RouteStatus(Stored):
    """How far a route has come; `serving` answers while it is READY, and is loaded first after a restart."""

    state: RouteState = RouteState.PENDING
    serving: Version | None = None
    failure: Failure | None = None
    rolled_back: Rollback | None = None


class Origin(StrEnum):
    """Who changed the shares of traffic."""

    CALLER = "caller"
    ROLLBACK = "rollback"


class TrafficChange(Stored):
    """The shares of traffic from a moment on, by route id, and why."""

    time: datetime
    weights: dict[str, float]
    reason: str = ""
    origin: Origin = Origin.CALLER


class Status(Stored):
    """What the server has made of it so far."""

    state: State = State.PENDING
    base_digest: str = ""
    precision: Precision = "auto"
    routes: dict[str, RouteStatus] = Field(default_factory=dict)
    failure: Failure | None = None
    traffic: tuple[TrafficChange, ...] = ()  # the newest first


class Deployment(NamedTuple):
    """One row: `generation` counts the writes of `spec`, `version` all writes."""

    name: str
    spec: Spec
    status: Status
    generation: int
    version: int
    created: datetime
    updated: datetime

    @property
    def project(self) -> str:
        return self.name.split("/")[1]

    @property
    def is_wanted(self) -> bool:
        return self.status.state is not State.DELETING and self.spec.replicas > 0


class Seen(StrEnum):
    """What is there of something that takes long to load."""

    NOTHING = "nothing"
    LOADING = "loading"
    HELD = "held"
    FAILED = "failed"


class Act(StrEnum):
    LOAD = "load"
    LOAD_AGAIN = "load_again"
    UNLOAD = "unload"
    FORGET = "forget"


DECIDE: Mapping[tuple[bool, Seen], Act] = {  # (wanted, seen) -> act; anything else: nothing to do, or wait
    (True, Seen.NOTHING): Act.LOAD,
    (True, Seen.FAILED): Act.LOAD_AGAIN,  # after a pause that grows
    (False, Seen.HELD): Act.UNLOAD,  # once nothing runs on it
    (False, Seen.FAILED): Act.FORGET,
}

_ROUTE: Mapping[Seen, RouteState] = {
    Seen.NOTHING: RouteState.PENDING,
    Seen.LOADING: RouteState.LOADING,
    Seen.HELD: RouteState.READY,
    Seen.FAILED: RouteState.FAILED,
}


class Look(NamedTuple):
    """What is seen of a base or an adapter, and why it failed where it did."""

    seen: Seen
    failure: Failure | None = None


NOT_YET = Look(Seen.NOTHING)


def route_status(before: RouteStatus, target: Version | None, look: Look, held: Collection[str]) -> RouteStatus:
    """A route's status: it answers with what it had until what it leads to now is loaded.

    Args:
        target: the version it leads to at present; None where that is not known, and then `look` says why.
        look: at the target's adapter.
        held: digests of the adapters that are loaded on its base.
    """
    if target is not None and look.seen is Seen.HELD:
        return RouteStatus(state=RouteState.READY, serving=target, rolled_back=before.rolled_back)
    if before.serving is not None and before.serving.adapter_digest in held:
        return before.model_copy(update={"state": RouteState.READY, "failure": look.failure})
    return before.model_copy(update={"state": _ROUTE[look.seen], "failure": look.failure})


def unwanted_status(before: Status) -> Status:
    """The status of a deployment that keeps nothing loaded: what was decided about its traffic stays."""
    rolled_back = {key: one.rolled_back for key, one in before.routes.items() if one.rolled_back is not None}
    routes = {key: RouteStatus(rolled_back=why) for key, why in rolled_back.items()}
    return Status(state=State.READY, routes=routes, traffic=before.traffic)


def deployment_state(base: Look, routes: Collection[RouteStatus]) -> tuple[State, Failure | None]:
    """READY when all that is wanted is loaded, DEGRADED when some of it answers, FAILED when nothing does."""
    if base.seen is Seen.FAILED:
        return State.FAILED, base.failure
    if base.seen is not Seen.HELD:
        return State.LOADING, None
    failures = [route.failure for route in routes if route.failure is not None]
    answering = [route for route in routes if route.state is RouteState.READY]
    if failures:
        return (State.DEGRADED if answering else State.FAILED), failures[0]
    return (State.READY if len(answering) == len(routes) else State.LOADING), None
