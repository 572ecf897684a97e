"""From the `model` of a call to what answers it: exactly what was named, or a refusal that says why not."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from feinschliff.inference.callers import Caller
from feinschliff.inference.engine import Engine
from feinschliff.inference.life import NAME, Deployment, Version
from feinschliff.inference.observed import Observations
from feinschliff.inference.pool import Lease, Pool
from feinschliff.inference.reconciler import refuse_other_base
from feinschliff.inference.targets import (
    LOADING,
    Target,
    hosts,
    key_of,
    loading,
    may_load_on_demand,
    pinned_on,
    targets,
    why_not,
    within,
)
from feinschliff.inference.traffic import Traffic
from feinschliff.inference.versions import Versions
from feinschliff.inference.view import View
from feinschliff.kit import names
from feinschliff.kit.errors import NotFound, Refusal
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake

ANYONE = Caller()
ANSWER_SECONDS = 0.5
"""What a call that waited in vain keeps of its time to be told so."""
_OTHERS_MAY = ("ADAPTER_UNSUPPORTED", "ENGINE_LOST")
"""Why one engine does not load a version that another one may."""


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
    answer_tokens: int = 0  # where nobody says how long an answer may be; 0: what the context has left

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


class Patience(NamedTuple):
    """For what is being loaded.

    Attributes:
        seconds_max: a call waits no longer than that, nor does one without a deadline.
        calls_max: calls that wait at once; more are refused.
    """

    seconds_max: float
    calls_max: int


class _Wish(NamedTuple):
    """See `Models.grant`."""

    is_within_call: bool = False
    needs_vectors: bool = False


class Models:
    """Grants what a call names; what is on its way is waited for, but not beyond the call's deadline."""

    def __init__(
        self,
        pool: Pool,
        view: View,
        look_again: Callable[[], Sequence[Deployment]],
        versions: Versions,
        wake: Wake,
        traffic: Traffic,
        observations: Observations,
        patience: Patience,
        *,
        answer_tokens_default: int = 0,
    ) -> None:
        self._answer_tokens_default = answer_tokens_default
        self._patience = patience
        self._waiting = 0
        self._traffic = traffic
        self._observations = observations
        self._pool = pool
        self._view = view
        self._look_again = look_again
        self._versions = versions
        self._wake = wake

    async def grant(
        self,
        model: str,
        *,
        seconds_left: float | None,
        caller: Caller = ANYONE,
        is_within_call: bool = False,
        needs_vectors: bool = False,
    ) -> Granted:
        """A lease on exactly what `model` names.

        Args:
            caller: on whose behalf, and what keeps it on one route of a deployment.
            is_within_call: asked for another call, which has its place: it needs none of its own, and no canary is
                judged by it.
            needs_vectors: of several that could answer, one that gives vectors is the best.

        Raises:
            NotFound: MODEL_UNKNOWN.
            WrongState: MODEL_NOT_LOADED, PROJECT_NEEDED, BASE_DIGEST_MISMATCH, what loading on demand refuses.
            Unavailable: MODEL_LOADING, REPLICA_DRAINING, the registry does not answer.
            Exhausted: ADAPTERS_BUSY, PROJECT_LIMIT.
        """
        project, sticky = caller.project, caller.sticky or secrets.token_hex(8)
        wish = _Wish(is_within_call, needs_vectors)
        if granted := self._granted(targets(model, within(self._view.all(), model, project), sticky), wish):
            return granted
        until = time.monotonic() + self._patience_seconds(seconds_left)
        turn, deployments = self._wake.turn, await offload(self._look_again)
        while True:
            deployments = within(deployments, model, project)
            if granted := self._granted(targets(model, deployments, sticky), wish):
                return granted
            if may_load_on_demand(model, deployments):
                return await self._on_demand(model, until - time.monotonic(), wish)
            refusal = why_not(model, deployments)
            left = until - time.monotonic()
            if refusal.reason != LOADING or left <= 0:
                raise refusal
            with self._in_line(model):
                await self._wake.wait(turn, min(left, 1.0))
            turn, deployments = self._wake.turn, self._view.all()

    def _patience_seconds(self, seconds_left: float | None) -> float:
        """How long a call may wait; there is time left to say why it was in vain."""
        if seconds_left is None:
            return self._patience.seconds_max
        return min(self._patience.seconds_max, seconds_left - min(ANSWER_SECONDS, seconds_left / 10))

    @contextmanager
    def _in_line(self, model: str) -> Iterator[None]:
        """One of the calls that wait; where there are enough of them the call is refused at once."""
        if self._waiting >= self._patience.calls_max:
            raise loading(model)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def is_ready(self, model: str) -> bool:
        """Whether a call that names it would be answered at once; only looked at: no call is counted, nothing used.

        Raises:
            NotFound: MODEL_UNKNOWN.
            WrongState: PROJECT_NEEDED.
        """
        deployments = within(self._view.all(), model, "")
        if not any(map(self._answers, targets(model, deployments))):
            deployments = within(await offload(self._look_again), model, "")
            if not any(map(self._answers, targets(model, deployments))):
                if isinstance(refusal := why_not(model, deployments), NotFound):
                    raise refusal
                return False
        return True

    def _answers(self, target: Target) -> bool:
        """Whether it is loaded here, in traffic, and computed at present."""
        key = key_of(target.deployment)
        engine = self._pool.engine(key) if key else None
        if key is None or engine is None or self._traffic.is_draining(target.deployment):
            return False
        if not engine.capacity().is_up:
            return False
        return target.version is None or self._pool.is_loaded(key, target.version.adapter_digest)

    async def at_once(self, model: str) -> Granted:
        """A lease on what answers without loading anything, to look at it: it takes no place of its project.

        Raises:
            NotFound: MODEL_UNKNOWN.
            WrongState: MODEL_NOT_LOADED, PROJECT_NEEDED.
            Unavailable: MODEL_LOADING, REPLICA_DRAINING.
        """
        for look in (self._view.all, self._look_again):
            deployments = within(await offload(look), model, "")
            if granted := self._granted(targets(model, deployments), _Wish(is_within_call=True)):
                return granted
        raise why_not(model, deployments)

    def again(self, granted: Granted) -> Granted:
        """One lease more on what is granted and not given back, for the same call."""
        lease = self._pool.acquire(granted.lease.key, granted.lease.adapter_digest)
        assert lease is not None, "what is leased is loaded"
        lease.call = granted.lease.call
        return granted._replace(lease=lease)

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

    def _lacks(self, target: Target, wish: _Wish) -> tuple[bool, bool]:
        """By which who can comes before who cannot, and who is up before who is away."""
        key = key_of(target.deployment)
        engine = self._pool.engine(key) if key else None
        if engine is None:
            return True, True
        return wish.needs_vectors and not engine.facts.dimensions, not engine.capacity().is_up

    def _granted(self, found: Sequence[Target], wish: _Wish) -> Granted | None:
        refusal: Refusal | None = None
        best_first = sorted(found, key=lambda one: self._lacks(one, wish)) if len(found) > 1 else found
        for target in best_first:
            key = key_of(target.deployment)
            digest = target.version.adapter_digest if target.version else ""
            if key is not None and (lease := self._pool.acquire(key, digest)) is not None:
                try:
                    self._traffic.enter(target.deployment, lease, is_within_call=wish.is_within_call)
                except Refusal as error:
                    lease.give_back()
                    refusal = error
                else:
                    if target.route and not wish.is_within_call:
                        lease.call.watch = self._observations.watch(target.deployment.name, target.route)
                    return Granted(lease, target.deployment, target.version, self._answer_tokens_default)
        if refusal is not None:
            raise refusal
        return None

    async def _on_demand(self, model: str, seconds: float, wish: _Wish) -> Granted:
        until = time.monotonic() + seconds
        version = await offload(self._versions.lookup, model)
        while (left := until - time.monotonic()) > 0:
            turn = self._wake.turn
            deployments = self._view.all()
            if granted := self._granted(targets(version.name, deployments), wish):
                return granted
            able = [Target(host, version) for host in hosts(version, deployments)]
            if not able:
                raise why_not(model, deployments)
            able.sort(key=lambda one: (*self._lacks(one, wish), not self._answers(one)))  # who has it already first
            with self._in_line(model):
                if granted := await self._load(version, able, deployments, left):
                    return granted
                await self._wake.wait(turn, min(left, 1.0))
        raise loading(model)

    async def _load(
        self, version: Version, able: Sequence[Target], deployments: Sequence[Deployment], seconds: float
    ) -> Granted | None:
        """Loads the version onto the first host whose base is there and that takes it; None where none is yet."""
        refusal: Refusal | None = None
        for host in able:
            key = key_of(host.deployment)
            if key is None or self._pool.engine(key) is None:
                continue
            refuse_other_base(version, key.digest)
            limit = sum(one.spec.on_demand_max for one in deployments if one.spec.on_demand and key_of(one) == key)
            pinned = pinned_on(key, deployments)
            future = await offload(self._pool.load_on_demand, key, version, pinned=pinned, limit=limit)
            done, _ = await asyncio.wait({asyncio.wrap_future(future)}, timeout=seconds)
            if not done:
                raise loading(version.name)
            try:
                done.pop().result()
            except Refusal as error:
                if error.reason not in _OTHERS_MAY:
                    raise
                refusal = error
                continue
            return self._granted([host], _Wish())
        if refusal is not None:
            raise refusal
        return None
