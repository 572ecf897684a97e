"""Verdicts of gates, as evaluation gives them."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from feinschliff.kit.client import sync_channel
from feinschliff.kit.errors import from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.registry.aliases import VerdictSeen
from feinschliff.registry.settings import RegistrySettings
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc

SERVICE = "feinschliff.v1.EvaluationService"


def verdicts_of(settings: RegistrySettings, metrics: Metrics) -> Callable[[str], VerdictSeen]:
    """Evaluation need not be there before somebody names a verdict."""
    channel = sync_channel(
        settings.evaluation_address,
        name="evaluation",
        services=[SERVICE],
        metrics=metrics,
        timeout_seconds=settings.call_timeout_seconds,
    )
    stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)

    def verdict(name: str) -> VerdictSeen:
        try:
            found = stub.GetVerdict(pb.GetVerdictRequest(name=name))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        state = pb.Verdict.State.Name(found.state).removeprefix("STATE_").lower()
        return VerdictSeen(state, found.candidate)

    return verdict
