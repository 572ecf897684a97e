"""Verdicts of gates, as evaluation gives them."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from feinschliff.kit.client import sync_channel
from feinschliff.kit.errors import NotFound, from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.registry.protection import VerdictSeen
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
        is_current = found.policy.rules == _rules(stub, found.policy.name)
        state = pb.Verdict.State.Name(found.state).removeprefix("STATE_").lower()
        compares = any(outcome.baseline_run for outcome in found.outcomes)
        return VerdictSeen(state, found.candidate, is_current, found.baseline, compares)

    return verdict


def _rules(stub: evaluation_pb2_grpc.EvaluationServiceStub, gate: str) -> object:
    """What the gate demands by now; None where it is gone."""
    try:
        return stub.GetGatePolicy(pb.GetGatePolicyRequest(name=gate)).rules
    except grpc.RpcError as error:
        refusal = from_rpc_error(error)
        if isinstance(refusal, NotFound):
            return None
        raise refusal from error
