"""The door of deployments: translate, call, translate back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from feinschliff.inference.conversation import from_identity
from feinschliff.inference.deployments import Change, Deployments
from feinschliff.inference.life import NAME, Deployment, Spec
from feinschliff.inference.proto import from_deployment, timestamp, to_spec
from feinschliff.inference.replica import Held, Replica
from feinschliff.inference.servable import Servable, ServableModels
from feinschliff.kit import masks, names
from feinschliff.kit.idempotency import digest_of
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake, follow
from feinschliff.v1 import inference_pb2 as pb
from feinschliff.v1 import inference_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class DeploymentService(inference_pb2_grpc.DeploymentServiceServicer):
    """What is served; loading itself is the reconciler's."""

    def __init__(
        self,
        deployments: Deployments,
        servable: ServableModels,
        replica: Replica,
        wake: Wake,
    ) -> None:
        self._deployments = deployments
        self._servable = servable
        self._replica = replica
        self._wake = wake

    async def CreateDeployment(self, request: pb.CreateDeploymentRequest, context: Context) -> pb.Deployment:
        deployment = await offload(
            self._deployments.create,
            request.parent,
            request.deployment_id,
            to_spec(request.deployment),
            request_id=request.request_id,
            body_digest=digest_of(request),
            validate_only=request.validate_only,
        )
        message = from_deployment(deployment)
        if request.validate_only:
            message.ClearField("name")
        return message

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Context) -> pb.Deployment:
        return from_deployment(await offload(self._deployments.get, request.name))

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Context) -> pb.ListDeploymentsResponse:
        found = await offload(
            self._deployments.page,
            request.parent,
            request.page_token,
            request.page_size,
            request.filter,
            request.order_by,
        )
        return pb.ListDeploymentsResponse(
            deployments=[from_deployment(one) for one in found.deployments],
            next_page_token=found.next_token,
            total_size=found.total,
        )

    async def UpdateDeployment(self, request: pb.UpdateDeploymentRequest, context: Context) -> pb.Deployment:
        patch = request.deployment

        def change(before: Deployment) -> Spec:
            return to_spec(masks.merged(from_deployment(before), patch, request.update_mask))

        return from_deployment(await offload(self._deployments.update, patch.name, patch.etag, change))

    async def SetTraffic(self, request: pb.SetTrafficRequest, context: Context) -> pb.Deployment:
        set_traffic = self._deployments.set_traffic
        weights = dict(request.weights)
        return from_deployment(
            await offload(set_traffic, request.name, weights, etag=request.etag, reason=request.reason)
        )

    async def DeleteDeployment(self, request: pb.DeleteDeploymentRequest, context: Context) -> Empty:
        await offload(self._deployments.delete, request.name, request.etag)
        return Empty()

    async def WatchDeployment(
        self, request: pb.WatchDeploymentRequest, context: Context
    ) -> AsyncIterator[pb.WatchDeploymentResponse]:
        name = (await offload(self._deployments.get, request.name)).name if not request.cursor else request.name
        names.parse(NAME, name)

        def read(cursor: int) -> list[Change]:
            return self._deployments.changes(name, cursor)

        changes: AsyncIterator[Change] = follow(
            read,
            cursor_of=lambda change: change.cursor,
            start=request.cursor,
            is_final=lambda: self._deployments.is_gone(name),
            wake=self._wake,
        )
        async for change in changes:
            yield _to_response(change)

    async def GetReplicaState(self, request: pb.GetReplicaStateRequest, context: Context) -> pb.ReplicaState:
        return _to_state(self._replica.held(await offload(self._deployments.get, request.name)))

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.ReplicaState:
        deployment = await offload(self._deployments.get, request.name)
        self._replica.drain(deployment, request.replica_id, request.timeout_seconds, undo=request.undo)
        return _to_state(self._replica.held(deployment))

    async def ListServableModels(
        self, request: pb.ListServableModelsRequest, context: Context
    ) -> pb.ListServableModelsResponse:
        found = await offload(
            self._servable.page,
            request.parent,
            request.page_token,
            request.page_size,
            request.filter,
            request.order_by,
        )
        return pb.ListServableModelsResponse(
            models=[_to_servable(one) for one in found.models],
            next_page_token=found.next_token,
            total_size=found.total,
        )


def _to_response(change: Change) -> pb.WatchDeploymentResponse:
    if change.deployment is None:
        return pb.WatchDeploymentResponse(cursor=change.cursor, deleted=True)
    return pb.WatchDeploymentResponse(cursor=change.cursor, deployment=from_deployment(change.deployment))


def _to_state(held: Held | None) -> pb.ReplicaState:
    if held is None:
        return pb.ReplicaState()
    replica = pb.Replica(
        id=held.replica_id,
        serving=not held.is_draining,
        draining=held.is_draining,
        base_digest=held.base_digest,
        adapter_digests=held.adapter_digests,
        running_calls=held.calls.running,
        waiting_calls=held.calls.waiting,
        memory_bytes=held.memory_bytes,
        device_memory_bytes=held.device_memory_bytes,
        start_time=timestamp(held.started),
    )
    return pb.ReplicaState(replicas=[replica])


def _to_servable(one: Servable) -> pb.ServableModel:
    return pb.ServableModel(
        model=one.model,
        deployment=one.deployment,
        identity=from_identity(one.identity),
        loaded=one.loaded,
        base_model=one.base_model,
        context_tokens=one.context_tokens,
    )
