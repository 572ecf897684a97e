"""Models that are not served yet: the first call that names one starts a deployment, and waits for it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from feinschliff.gateway import ids
from feinschliff.gateway.clients import Clients
from feinschliff.gateway.errors import SERVER, ApiError, answering, from_refusal
from feinschliff.gateway.models import Target
from feinschliff.kit.errors import AlreadyExists, NotFound, from_rpc_error
from feinschliff.v1 import inference_pb2 as pb

log = logging.getLogger(__name__)
T = TypeVar("T")
State = pb.Deployment.State
NOT_LOADED, LOADING = "MODEL_NOT_LOADED", "MODEL_LOADING"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0
"""Between two looks at what loads; doubled from the first to the longest."""
COME_BACK_SECONDS_MAX = 30.0


class Loader:
    """Makes sure that a deployment serves a base, with its adapters on demand; the same base gives the same one."""

    def __init__(self, clients: Clients, *, is_on: bool, seconds: float) -> None:
        self._deployments = clients.deployments
        self._is_on = is_on
        self._seconds = seconds

    async def served(self, project: str, target: Target, call: Callable[[], Awaitable[T]]) -> T:
        """The call's result. Where its model is not loaded, it is made to be, and the call is made again.

        Raises:
            ApiError: 503 model_not_loaded, with the time after which to ask again.
            grpc.RpcError: the call is refused for any other reason.
        """
        try:
            async with asyncio.timeout(None) as limit:
                return await self._asked(project, target, call, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"'{target.model}' is being loaded and was not ready within {self._seconds:g} s. Ask again."
            raise not_loaded(message, self._seconds) from None

    async def _asked(self, project: str, target: Target, call: Callable[[], Awaitable[T]], limit: asyncio.Timeout) -> T:
        """The clock runs only while something loads, never while the model answers."""
        loop = asyncio.get_running_loop()
        until, pause_seconds, is_ensured = 0.0, FIRST_PAUSE_SECONDS, False
        while True:
            limit.reschedule(None)
            try:
                return await call()
            except grpc.RpcError as error:
                reason = from_rpc_error(error).reason
                if reason not in (NOT_LOADED, LOADING):
                    raise
            until = until or loop.time() + self._seconds
            limit.reschedule(until)
            if reason == NOT_LOADED and not is_ensured:
                await self._until_ready(await self._ensured(project, target))
                is_ensured = True
                continue
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    async def _ensured(self, project: str, target: Target) -> pb.Deployment:
        if not (self._is_on and target.may_deploy and target.base_uri):
            raise not_loaded(f"No deployment serves '{target.model}'. Create one, then ask again.", self._seconds)
        name = ids.deployment_name(project, target.base_uri)
        try:
            return await self._deployments.GetDeployment(pb.GetDeploymentRequest(name=name))
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if not isinstance(refusal, NotFound):
                raise from_refusal(refusal) from error
        return await self._created(project, target.base_uri, name)

    async def _created(self, project: str, base_uri: str, name: str) -> pb.Deployment:
        log.info("deploying a base that a call names", extra={"deployment": name, "base_model": base_uri})
        title = f"{base_uri} (made by the gateway)"
        request = pb.CreateDeploymentRequest(
            parent=ids.project_name(project),
            deployment_id=ids.last_part(name),
            deployment=pb.Deployment(display_name=title[:256], base_model=base_uri, on_demand=True),
        )
        try:
            return await self._deployments.CreateDeployment(request)
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if not isinstance(refusal, AlreadyExists):
                raise from_refusal(refusal) from error
        with answering():
            return await self._deployments.GetDeployment(pb.GetDeploymentRequest(name=name))

    async def _until_ready(self, deployment: pb.Deployment) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while deployment.state not in (State.STATE_READY, State.STATE_DEGRADED):
            if deployment.state == State.STATE_FAILED:
                failure = deployment.failure
                told = [failure.message or "The model could not be loaded.", *failure.advice]
                raise not_loaded("\n".join(told), self._seconds)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)
            with answering():
                deployment = await self._deployments.GetDeployment(pb.GetDeploymentRequest(name=deployment.name))


def not_loaded(message: str, seconds: float) -> ApiError:
    headers = {"retry-after": str(math.ceil(min(seconds, COME_BACK_SECONDS_MAX)))}
    return ApiError(503, message, type=SERVER, code="model_not_loaded", param="model", headers=headers)
