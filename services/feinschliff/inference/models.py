"""From the `model` of a call to what answers it: exactly what was named, or a refusal that says why not."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from feinschliff.inference.engine import Engine
from feinschliff.inference.life import NAME, Deployment, Failure, RouteState, RouteStatus, State, Version
from feinschliff.inference.pool import BaseKey, Lease, Pool
from feinschliff.inference.reconciler import refuse_other_base
from feinschliff.inference.versions import ALIAS, VERSION, Versions
from feinschliff.inference.view import View
from feinschliff.kit import names
from feinschliff.kit.errors import NotFound, Refusal, Unavailable, WrongState
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake

LOADING_RETRY_SECONDS = 2.0
_BASE_SCHEMES = ("hf:", "s3:", "file:", "pypi:")


class Target(NamedTuple):
    """What could answer: a deployment's base, with a version's adapter or alone."""

    deployment: Deployment
    version: Version | None


class Identity(NamedTuple):
    """What exactly answers."""

    model_version: str
    base_digest: str
    adapter_digest: str
    template_hash: str


class Granted(NamedTuple):
    """A target that is loaded and stays so until the lease is given back."""

    lease: Lease
    deployment: Deployment
    version: Version | None

    @property
    def context_tokens(self) -> int:
        return context_of(self.lease.engine, self.deployment, self.lease.adapter_digest)

    @property
    def identity(self) -> Identity:
        return identity_of(self.lease.engine, self.deployment, self.version)


def context_of(engine: Engine, deployment: Deployment, adapter_digest: str) -> int:
    """Longest prompt and answer together; what an adapter puts before every prompt is taken off."""
    own = engine.facts.context_tokens
    return min(own, deployment.spec.context_tokens or own) - engine.virtual_tokens(adapter_digest)


def identity_of(engine: Engine, deployment: Deployment, version: Version | None) -> Identity:
    return Identity(
        model_version=version.name if version else deployment.spec.base_model,
        base_digest=engine.facts.base_digest,
        adapter_digest=version.adapter_digest if version else "",
        template_hash=engine.facts.template_hash,
    )


class Models:
    """Grants what a call names; what is loaded on demand is waited for, but not beyond the call's deadline."""

    def __init__(
        self,
        pool: Pool,
        view: View,
        look_again: Callable[[], Sequence[Deployment]],
        versions: Versions,
        wake: Wake,
        *,
        wait_seconds_max: float,
    ) -> None:
        self._pool = pool
        self._view = view
        self._look_again = look_again
        self._versions = versions
        self._wake = wake
        self._wait_seconds_max = wait_seconds_max

    async def grant(self, model: str, *, seconds_left: float | None) -> Granted:
        """A lease on exactly what `model` names.

        Raises:
            NotFound: MODEL_UNKNOWN.
            WrongState: MODEL_NOT_LOADED, BASE_DIGEST_MISMATCH, what loading an adapter on demand refuses.
            Unavailable: MODEL_LOADING, the registry does not answer.
            Exhausted: ADAPTERS_BUSY.
        """
        draw = random.random()
        if granted := self._granted(targets(model, self._view.all(), draw)):
            return granted
        deployments = await offload(self._look_again)
        if granted := self._granted(targets(model, deployments, draw)):
            return granted
        if may_load_on_demand(model, deployments):
            return await self._on_demand(model, min(self._wait_seconds_max, seconds_left or self._wait_seconds_max))
        raise why_not(model, deployments)

    async def at_once(self, model: str) -> Granted | None:
        """A lease on what answers without loading anything; None where nothing does yet.

        Raises:
            NotFound: MODEL_UNKNOWN.
        """
        draw = random.random()
        if granted := self._granted(targets(model, self._view.all(), draw)):
            return granted
        deployments = await offload(self._look_again)
        if granted := self._granted(targets(model, deployments, draw)):
            return granted
        if isinstance(refusal := why_not(model, deployments), NotFound):
            raise refusal
        return None

    def again(self, granted: Granted) -> Granted:
        """One lease more on what is granted and not given back."""
        lease = self._pool.acquire(granted.lease.key, granted.lease.adapter_digest)
        assert lease is not None, "what is leased is loaded"
        return granted._replace(lease=lease)

    def why_not(self, model: str) -> Refusal:
        """The refusal for a model that `at_once` does not find."""
        return why_not(model, self._view.all())

    def deployments(self) -> Sequence[Deployment]:
        """As the last look found them."""
        return self._view.all()

    async def deployment(self, name: str) -> Deployment:
        """Raises NotFound DEPLOYMENT_NOT_FOUND."""
        names.parse(NAME, name, field="deployment")
        for look in (self._view.all(), await offload(self._look_again)):
            for one in look:
                if one.name == name:
                    return one
        raise NotFound("DEPLOYMENT_NOT_FOUND", f"There is no deployment {name}.", deployment=name)

    def _granted(self, found: Sequence[Target]) -> Granted | None:
        for target in found:
            key = key_of(target.deployment)
            digest = target.version.adapter_digest if target.version else ""
            if key is not None and (lease := self._pool.acquire(key, digest)) is not None:
                return Granted(lease, target.deployment, target.version)
        return None

    async def _on_demand(self, model: str, seconds: float) -> Granted:
        until = time.monotonic() + seconds
        version = await offload(self._versions.lookup, model)
        while (left := until - time.monotonic()) > 0:
            turn = self._wake.turn
            deployments = self._view.all()
            if granted := self._granted(targets(version.name, deployments, 0.0)):
                return granted
            hosts = [one for one in deployments if is_host(one, version)]
            if not hosts:
                raise why_not(model, deployments)
            if granted := await self._load(version, hosts, deployments, left):
                return granted
            await self._wake.wait(turn, min(left, 1.0))
        raise _loading(model)

    async def _load(
        self, version: Version, hosts: Sequence[Deployment], deployments: Sequence[Deployment], seconds: float
    ) -> Granted | None:
        """Loads the version onto the first host whose base is there; None where none is yet."""
        for host in hosts:
            key = key_of(host)
            if key is None or self._pool.engine(key) is None:
                continue
            refuse_other_base(version, key.digest)
            limit = sum(one.spec.on_demand_max for one in deployments if one.spec.on_demand and key_of(one) == key)
            pinned = pinned_on(key, deployments)
            future = await offload(self._pool.load_on_demand, key, version, pinned=pinned, limit=limit)
            done, _ = await asyncio.wait({asyncio.wrap_future(future)}, timeout=seconds)
            if not done:
                raise _loading(version.name)
            future.result()
            return self._granted([Target(host, version)])
        return None


def may_load_on_demand(model: str, deployments: Sequence[Deployment]) -> bool:
    """Whether it takes the registry's word to know what becomes of a version or an alias."""
    if not names.matches(VERSION, model) and not names.matches(ALIAS, model):
        return False
    project = model.split("/")[1]
    has_host = any(one.is_wanted and one.spec.on_demand and one.project == project for one in deployments)
    return has_host or not any(_concerns(one, model) for one in deployments)


def targets(model: str, deployments: Sequence[Deployment], draw: float) -> list[Target]:
    """What answers `model` by the deployments' own word, the best first.

    Args:
        draw: in [0, 1); decides between the routes of a deployment by their weights.
    """
    alive = [one for one in deployments if one.is_wanted]
    if names.matches(NAME, model):
        return [_by_weight(one, draw) for one in alive if one.name == model and _answers_alone(one)]
    if names.matches(ALIAS, model) or names.matches(VERSION, model):
        return [
            Target(one, status.serving)
            for one in alive
            for route in one.spec.routes
            if (status := _ready(one, route.id)) and model in (route.model_version, _name(status.serving))
        ]
    return [Target(one, None) for one in alive if one.spec.base_model == model]


def why_not(model: str, deployments: Sequence[Deployment]) -> Refusal:
    """The refusal for a model that nothing loaded answers."""
    related = [one for one in deployments if _concerns(one, model)]
    if any(_is_on_its_way(one, model) for one in related):
        return _loading(model)
    failures = [failure for one in related if (failure := _failure(one, model))]
    if failures:
        message = f"{model} is not loaded: {failures[0].message}"
        return WrongState("MODEL_NOT_LOADED", message, advice=failures[0].advice, model=model, cause=failures[0].reason)
    if related or model.startswith(_BASE_SCHEMES) or names.matches(VERSION, model) or names.matches(ALIAS, model):
        return WrongState(
            "MODEL_NOT_LOADED",
            f"No deployment serves {model}.",
            advice=["Create a deployment with it, or one of its base with on_demand."],
            model=model,
        )
    return NotFound(
        "MODEL_UNKNOWN",
        f"There is no model {model[:200]!r}.",
        advice=["Name a deployment, a model version, projects/{project}/models/{model}@{alias}, or a base URI."],
        model=model[:200],
    )


def is_host(deployment: Deployment, version: Version) -> bool:
    """Whether a deployment may load the version on demand."""
    of_its_project = deployment.project == version.name.split("/")[1]
    same_base = version.base_model == deployment.spec.base_model or version.base_digest == deployment.status.base_digest
    return deployment.is_wanted and deployment.spec.on_demand and of_its_project and same_base


def key_of(deployment: Deployment) -> BaseKey | None:
    """The loaded base of a deployment, once it has been found."""
    status = deployment.status
    return BaseKey(status.base_digest, status.precision) if status.base_digest else None


def pinned_on(key: BaseKey, deployments: Sequence[Deployment]) -> set[str]:
    """Digests of the adapters that routes on this base ask for."""
    return {
        route.serving.adapter_digest
        for one in deployments
        if one.is_wanted and key_of(one) == key
        for route in one.status.routes.values()
        if route.serving is not None
    }


def _by_weight(deployment: Deployment, draw: float) -> Target:
    ready = [
        (route.weight, status.serving)
        for route in deployment.spec.routes
        if route.weight > 0 and (status := _ready(deployment, route.id))
    ]
    if not ready:
        return Target(deployment, None)
    total = sum(weight for weight, _ in ready)
    at = draw * total
    for weight, version in ready:
        at -= weight
        if at < 0:
            return Target(deployment, version)
    return Target(deployment, ready[-1][1])


def _answers_alone(deployment: Deployment) -> bool:
    """Whether a call that names only the deployment can be answered: by a route, or by the base where none counts."""
    weighed = [route for route in deployment.spec.routes if route.weight > 0]
    return not weighed or any(_ready(deployment, route.id) for route in weighed)


def _ready(deployment: Deployment, route_id: str) -> RouteStatus | None:
    status = deployment.status.routes.get(route_id)
    return status if status is not None and status.state is RouteState.READY else None


def _name(version: Version | None) -> str:
    return version.name if version else ""


def _concerns(deployment: Deployment, model: str) -> bool:
    if deployment.status.state is State.DELETING:
        return False
    routes = [route.model_version for route in deployment.spec.routes]
    return model in (deployment.name, deployment.spec.base_model, *routes)


def _is_on_its_way(deployment: Deployment, model: str) -> bool:
    if not deployment.is_wanted:
        return False
    if deployment.status.state in (State.PENDING, State.LOADING, State.READY):
        return True
    routes = [route for route in deployment.spec.routes if route.model_version == model]
    statuses = [deployment.status.routes.get(route.id, RouteStatus()) for route in routes]
    return any(one.state in (RouteState.PENDING, RouteState.LOADING) for one in statuses)


def _failure(deployment: Deployment, model: str) -> Failure | None:
    for route in deployment.spec.routes:
        status = deployment.status.routes.get(route.id)
        if route.model_version == model and status is not None and status.failure is not None:
            return status.failure
    return deployment.status.failure


def _loading(model: str) -> Unavailable:
    return Unavailable(
        "MODEL_LOADING",
        f"{model} is being loaded; try again in {LOADING_RETRY_SECONDS:g} s.",
        retry_after_seconds=LOADING_RETRY_SECONDS,
        model=model,
    )
