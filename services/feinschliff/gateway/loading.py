"""Models that no deployment serves yet: the first call that names one starts a deployment and waits for it."""

from __future__ import annotations

import asyncio
import logging
import math

import grpc

from feinschliff.gateway import ids
from feinschliff.gateway.clients import Clients
from feinschliff.gateway.errors import SERVER, ApiError, answering, from_refusal
from feinschliff.gateway.models import Target
from feinschliff.kit.errors import AlreadyExists, NotFound, from_rpc_error
from feinschliff.v1 import inference_pb2 as pb

log = logging.getLogger(__name__)
State = pb.Deployment.State
FIRST_LOOK_SECONDS, LOOK_SECONDS_MAX = 0.1, 1.0
"""Between two looks at a deployment that loads; doubled from the first to the longest."""


class Loader:
    """Makes sure that a deployment serves a base, with its adapters on demand; the same base gives the same one."""

    def __init__(self, clients: Clients, *, is_on: bool, seconds: float) -> None:
        self._deployments = clients.deployments
        self._is_on = is_on
        self._seconds = seconds

    async def load(self, project: str, target: Target) -> None:
        """Returns once the target's base is served.

        Raises:
            ApiError: 503 model_not_loaded, with the time after which to ask again.
        """
        if not (self._is_on and target.may_deploy and target.base_uri):
            raise not_loaded(f"No deployment serves '{target.model}'. Create one, then ask again.", self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                await self._until_ready(await self._ensured(project, target.base_uri))
        except TimeoutError:
            message = f"'{target.base_uri}' is being loaded and was not ready within {self._seconds:g} s. Ask again."
            raise not_loaded(message, self._seconds) from None

    async def _ensured(self, project: str, base_uri: str) -> pb.Deployment:
        name = ids.deployment_name(project, base_uri)
        try:
            return await self._deployments.GetDeployment(pb.GetDeploymentRequest(name=name))
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if not isinstance(refusal, NotFound):
                raise from_refusal(refusal) from error
        log.info("deploying a base that a call names", extra={"deployment": name, "base_model": base_uri})
        try:
            return await self._deployments.CreateDeployment(
                pb.CreateDeploymentRequest(
                    parent=ids.project_name(project),
                    deployment_id=ids.deployment_id(base_uri),
                    deployment=pb.Deployment(
                        display_name=f"{base_uri} (made by the gateway)"[:256], base_model=base_uri, on_demand=True
                    ),
                )
            )
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if not isinstance(refusal, AlreadyExists):
                raise from_refusal(refusal) from error
        with answering():
            return await self._deployments.GetDeployment(pb.GetDeploymentRequest(name=name))

    async def _until_ready(self, deployment: pb.Deployment) -> None:
        pause_seconds = FIRST_LOOK_SECONDS
        while deployment.state not in (State.STATE_READY, State.STATE_DEGRADED):
            if deployment.state == State.STATE_FAILED:
                failure = deployment.failure
                told = "\n".join([failure.message or "The model could not be loaded.", *failure.advice])
                raise not_loaded(told, self._seconds)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, LOOK_SECONDS_MAX)
            with answering():
                deployment = await self._deployments.GetDeployment(pb.GetDeploymentRequest(name=deployment.name))


def not_loaded(message: str, seconds: float) -> ApiError:
    headers = {"retry-after": str(math.ceil(min(seconds, 30.0)))}
    return ApiError(503, message, type=SERVER, code="model_not_loaded", param="model", headers=headers)
