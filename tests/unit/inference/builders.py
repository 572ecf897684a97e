"""Small builders of deployments and versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from feinschliff.inference.canary import CanaryPolicy
from feinschliff.inference.life import (
    Deployment,
    EngineName,
    Failure,
    Route,
    RouteState,
    RouteStatus,
    Sampling,
    Spec,
    State,
    Status,
    Version,
)

BASE, DIGEST = "file:/base", "sha256:base"
PROJECT = "projects/default"
MODEL = f"{PROJECT}/models/m"
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def version(
    number: int = 1, *, base_digest: str = DIGEST, model: str = "m", defaults: Sampling | None = None
) -> Version:
    return Version(
        name=f"{PROJECT}/models/{model}/versions/{number}",
        base_model=BASE,
        base_digest=base_digest,
        adapter_uri=f"s3://bucket/{model}/{number}",
        adapter_digest=f"sha256:{model}{number}",
        defaults=defaults or Sampling(),
    )


def ready(number: int = 1) -> RouteStatus:
    return RouteStatus(state=RouteState.READY, serving=version(number))


def failed(reason: str = "BROKEN") -> RouteStatus:
    return RouteStatus(state=RouteState.FAILED, failure=Failure(reason=reason, message=f"It is {reason}."))


def deployment(
    name: str = "d",
    *,
    state: State = State.READY,
    routes: Mapping[str, tuple[str, RouteStatus]] | None = None,
    weights: Mapping[str, float] | None = None,
    shadows: Collection[str] = (),
    canary: CanaryPolicy | None = None,
    base: str = BASE,
    digest: str = DIGEST,
    failure: Failure | None = None,
    on_demand: bool = False,
    replicas: int = 1,
    project: str = "default",
    engine: EngineName = "transformers",
) -> Deployment:
    """`routes` by id: what is wanted, and how far it is."""
    given = routes or {}
    spec = Spec(
        base_model=base,
        precision="fp32",
        routes=tuple(
            Route(id=one, model_version=wanted, weight=(weights or {}).get(one, 1.0), shadow=one in shadows)
            for one, (wanted, _) in given.items()
        ),
        on_demand=on_demand,
        replicas=replicas,
        engine=engine,
        canary=canary,
    )
    status = Status(
        state=state,
        base_digest=digest,
        precision="fp32",
        routes={one: status for one, (_, status) in given.items()},
        failure=failure,
    )
    return Deployment(f"projects/{project}/deployments/{name}", spec, status, 1, 1, MOMENT, MOMENT)
