"""Brings what is loaded to what is wanted: looks, decides, acts, looks again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from feinschliff.inference import store
from feinschliff.inference.abilities import refuse_unable
from feinschliff.inference.life import (
    DECIDE,
    NOT_YET,
    Act,
    Deployment,
    Failure,
    Look,
    Route,
    RouteStatus,
    Seen,
    State,
    Status,
    Version,
    deployment_state,
    route_status,
    unwanted_status,
)
from feinschliff.inference.meters import show
from feinschliff.inference.pool import BaseKey, Located, Pool, Source
from feinschliff.inference.versions import Versions
from feinschliff.inference.view import View
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Conflict, Refusal, Unavailable, WrongState
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.watch import Wake

logger = logging.getLogger(__name__)


class Target(NamedTuple):
    """Where a route leads at present, or why that is not known."""

    version: Version | None
    failure: Failure | None = None


class Sight(NamedTuple):
    """One deployment as the reconciler sees it."""

    source: Source
    base: Look
    located: Located | None
    targets: Mapping[str, Target]


class Reconciler:
    """One `turn` at a time; a deployment that cannot be handled never stops the others."""

    def __init__(
        self,
        database: Database,
        pool: Pool,
        versions: Versions,
        view: View,
        metrics: Metrics,
        *,
        clock: Clock,
        wake: Wake,
    ) -> None:
        self._database = database
        self._pool = pool
        self._versions = versions
        self._view = view
        self._metrics = metrics
        self._clock = clock
        self._wake = wake

    def turn(self) -> None:
        with self._metrics.histogram("feinschliff_inference_reconcile_seconds").time():
            self._turn()
        self._measure()

    def _turn(self) -> None:
        deployments = self.read()
        wanted = {one.name: self._see(one) for one in deployments if one.is_wanted}
        self._move_bases(wanted.values())
        self._move_adapters(deployments, wanted)
        self._pool.tidy()
        self._pool.forget_sources({sight.source for sight in wanted.values()})
        news = [one.name for one in deployments if self._settle(one, wanted)]
        if news:
            self.read()
            self._wake.notify()

    def read(self) -> Sequence[Deployment]:
        """Shows the table as it is to those who answer calls."""
        return self._view.refresh(self._everything)

    def _everything(self) -> list[Deployment]:
        with self._database.reading() as session:
            return store.everything(session)

    def _see(self, deployment: Deployment) -> Sight:
        spec = deployment.spec
        source = Source(spec.base_model, spec.precision, spec.engine)
        located = self._pool.locate(source)
        base = self._pool.look_at_base(located.key) if located else self._pool.look_at_source(source)
        if located is None and base.seen is Seen.HELD:
            base = NOT_YET
        targets = {route.id: self._target(route, deployment, located) for route in spec.routes}
        return Sight(source, base, located, targets)

    def _target(self, route: Route, deployment: Deployment, located: Located | None) -> Target:
        before = deployment.status.routes.get(route.id, RouteStatus())
        try:
            version = self._versions.lookup(route.model_version)
            refuse_unable(deployment.spec.engine, version)
            if located is not None:
                self._refuse_other_base(version, located.key)
        except Unavailable as refusal:
            return Target(before.serving, None if before.serving else Failure.of(refusal))
        except Refusal as refusal:
            return Target(None, Failure.of(refusal))
        return Target(version)

    def _refuse_other_base(self, version: Version, key: BaseKey) -> None:
        refuse_other_base(version, key.digest)
        engine = self._pool.engine(key)
        recorded = version.template_hash.removeprefix("sha256:")
        if engine is not None and recorded not in ("", engine.facts.template_hash.removeprefix("sha256:")):
            raise WrongState(
                "TEMPLATE_MISMATCH",
                f"{version.name} was trained with another chat template than the base has now.",
                model=version.name,
                recorded=version.template_hash,
                found=engine.facts.template_hash,
            )

    def _move_bases(self, sights: Iterable[Sight]) -> None:
        wanted = {sight.located.key: sight.located for sight in sights if sight.located is not None}
        for key in {*wanted, *self._pool.bases()}:
            match DECIDE.get((key in wanted, self._pool.look_at_base(key).seen)):
                case Act.LOAD | Act.LOAD_AGAIN:
                    self._pool.load_base(wanted[key])
                case Act.UNLOAD | Act.FORGET:
                    self._pool.unload_base(key)

    def _move_adapters(self, deployments: Iterable[Deployment], sights: Mapping[str, Sight]) -> None:
        wanted: dict[BaseKey, dict[str, Version]] = {}
        on_demand: set[BaseKey] = set()
        for one in deployments:
            sight = sights.get(one.name)
            if sight is not None and sight.located is not None:
                key = sight.located.key
                needed = {version.adapter_digest: version for version in self._needed(one, sight, key)}
                wanted.setdefault(key, {}).update(needed)
                on_demand |= {key} if one.spec.on_demand else set()
        for key in self._pool.bases():
            if self._pool.look_at_base(key).seen is Seen.HELD:
                self._move_adapters_of(key, wanted.get(key, {}), on_demand=key in on_demand)

    def _move_adapters_of(self, key: BaseKey, wanted: Mapping[str, Version], *, on_demand: bool) -> None:
        self._pool.forget_gone(key)
        for digest in {*wanted, *self._pool.adapters(key)}:
            match DECIDE.get((digest in wanted, self._pool.look_at_adapter(key, digest).seen)):
                case Act.LOAD | Act.LOAD_AGAIN:
                    self._pool.load_adapter(key, wanted[digest])
                case Act.UNLOAD | Act.FORGET if not (on_demand and self._pool.is_on_demand(key, digest)):
                    self._pool.unload_adapter(key, digest)

    def _needed(self, deployment: Deployment, sight: Sight, key: BaseKey) -> Iterable[Version]:
        """What the routes lead to, and what they still answer with until that is loaded."""
        for route in deployment.spec.routes:
            target = sight.targets[route.id].version
            if target is not None:
                yield target
            is_there = target is not None and self._pool.look_at_adapter(key, target.adapter_digest).seen is Seen.HELD
            serving = deployment.status.routes.get(route.id, RouteStatus()).serving
            if serving is not None and not is_there and serving.base_digest == key.digest:
                yield serving

    def _settle(self, deployment: Deployment, sights: Mapping[str, Sight]) -> bool:
        """Writes what has become of a deployment; True where that is news."""
        try:
            if deployment.status.state is State.DELETING:
                return self._bury(deployment, sights)
            sight = sights.get(deployment.name)
            status = self._status(deployment, sight) if sight else unwanted_status(deployment.status)
            if status == deployment.status:
                return False
            with self._database.transaction() as session:
                store.write_status(session, deployment, status, self._clock.now())
        except Conflict:
            self._wake.notify()
            return False
        if status.state is not deployment.status.state:
            logger.info("deployment is %s", status.state, extra={"deployment": deployment.name, **_why(status.failure)})
        return True

    def _status(self, deployment: Deployment, sight: Sight) -> Status:
        key = sight.located.key if sight.located else None
        base = self._pool.look_at_base(key) if key else sight.base
        held = self._pool.loaded_adapters(key) if key else []
        routes = {}
        for route in deployment.spec.routes:
            target = sight.targets[route.id]
            look = Look(Seen.FAILED, target.failure) if target.failure else NOT_YET
            if target.version is not None and key is not None:
                look = self._pool.look_at_adapter(key, target.version.adapter_digest)
            before = deployment.status.routes.get(route.id, RouteStatus())
            routes[route.id] = route_status(before, target.version, look, held)
        state, failure = deployment_state(base, routes.values())
        return Status(
            state=state,
            base_digest=key.digest if key else "",
            precision=key.precision if key else "auto",
            routes=routes,
            failure=failure,
            traffic=deployment.status.traffic,
        )

    def _bury(self, deployment: Deployment, sights: Mapping[str, Sight]) -> bool:
        """Deletes the row once its base is unloaded or is another deployment's too."""
        status = deployment.status
        if status.base_digest:
            key = BaseKey(status.base_digest, status.precision, deployment.spec.engine)
            is_shared = any(sight.located is not None and sight.located.key == key for sight in sights.values())
            if not is_shared and self._pool.look_at_base(key).seen is not Seen.NOTHING:
                return False
        with self._database.transaction() as session:
            store.bury(session, deployment, self._clock.now())
        logger.info("deployment is deleted", extra={"deployment": deployment.name})
        return True

    def _measure(self) -> None:
        metrics, capacities = self._metrics, self._pool.capacities()
        metrics.gauge("feinschliff_inference_loaded_bases").set(len(capacities))
        adapters = sum(len(self._pool.loaded_adapters(key)) for key in capacities)
        metrics.gauge("feinschliff_inference_loaded_adapters").set(adapters)
        metrics.gauge("feinschliff_inference_adapter_bytes").set(self._pool.adapter_bytes())
        show(metrics, capacities.values())
        states = Counter(one.status.state for one in self._view.all())
        for state in State:
            metrics.gauge("feinschliff_inference_deployments").labels(state.value).set(states[state])


def refuse_other_base(version: Version, base_digest: str) -> None:
    """Raises WrongState BASE_DIGEST_MISMATCH where the version was trained on other weights."""
    if version.base_digest != base_digest:
        raise WrongState(
            "BASE_DIGEST_MISMATCH",
            f"{version.name} was trained on a base with digest {version.base_digest}; this one has {base_digest}.",
            advice=[f"Deploy it on {version.base_model} as it was when the version was trained."],
            model=version.name,
            recorded=version.base_digest,
            found=base_digest,
        )


def _why(failure: Failure | None) -> dict[str, str]:
    return {"reason": failure.reason, "failure": failure.message} if failure else {}
