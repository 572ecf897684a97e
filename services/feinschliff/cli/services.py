"""The services as the command line calls them, found by environment or by what runs in the home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from feinschliff.cli.settings import PORTS, PlatformSettings, platform_settings
from feinschliff.cli.state import running_state
from feinschliff.kit import tls
from feinschliff.kit.client import sync_channel
from feinschliff.kit.errors import Refusal, Unavailable, from_rpc_error
from feinschliff.v1 import (
    evaluation_pb2_grpc,
    inference_pb2_grpc,
    ingestion_pb2_grpc,
    registry_pb2_grpc,
    training_pb2_grpc,
)

if TYPE_CHECKING:
    from feinschliff.v1.evaluation_pb2_grpc import EvaluationServiceStub
    from feinschliff.v1.inference_pb2_grpc import DeploymentServiceStub, InferenceServiceStub
    from feinschliff.v1.ingestion_pb2_grpc import DatasetServiceStub
    from feinschliff.v1.registry_pb2_grpc import RegistryServiceStub
    from feinschliff.v1.training_pb2_grpc import TrainingServiceStub

UNREACHABLE = "SERVICE_UNREACHABLE"


@dataclass(frozen=True)
class Services:
    """Blocking stubs; a service that does not answer is no error before the first call."""

    datasets: DatasetServiceStub
    training: TrainingServiceStub
    evaluation: EvaluationServiceStub
    registry: RegistryServiceStub
    inference: InferenceServiceStub
    deployments: DeploymentServiceStub


def connect(settings: PlatformSettings) -> Services:
    """Stubs that speak as the settings say, in plain text or TLS.

    Raises:
        StartError: a file of TLS cannot be used.
    """
    tls.configure(settings)

    def channel(room: str, *services: str) -> grpc.Channel:
        names = [f"feinschliff.v1.{service}" for service in services]
        seconds = settings.call_timeout_seconds
        return sync_channel(settings.address_of(room), name=room, services=names, timeout_seconds=seconds)

    inference = channel("inference", "DeploymentService")
    return Services(
        datasets=ingestion_pb2_grpc.DatasetServiceStub(channel("ingestion", "DatasetService")),
        training=training_pb2_grpc.TrainingServiceStub(channel("training", "TrainingService")),
        evaluation=evaluation_pb2_grpc.EvaluationServiceStub(channel("evaluation", "EvaluationService")),
        registry=registry_pb2_grpc.RegistryServiceStub(channel("registry", "RegistryService")),
        inference=inference_pb2_grpc.InferenceServiceStub(inference),
        deployments=inference_pb2_grpc.DeploymentServiceStub(inference),
    )


def settings_of_running() -> PlatformSettings:
    """The environment's settings; a port that it does not name is that of the platform which runs in the home."""
    settings = platform_settings()
    state = running_state(settings.home.absolute())
    if state is None:
        return settings
    set_by_name = settings.model_fields_set
    found = {name: port for name, port in state.ports.items() if name in PORTS and name not in set_by_name}
    found |= {name: port for name, port in state.ports.items() if getattr(settings, name) == 0}
    return platform_settings(**found) if found else settings


@contextmanager
def refusals() -> Iterator[None]:
    """What a service refuses inside is raised as the refusal that it was there."""
    try:
        yield
    except grpc.RpcError as error:
        raise refusal_of(error) from error


def refusal_of(error: grpc.RpcError) -> Refusal:
    refusal = from_rpc_error(error)
    if refusal.reason != UNREACHABLE:
        return refusal
    return Unavailable(
        UNREACHABLE,
        f"The platform does not answer: {refusal.message}",
        advice=["start one: feinschliff up --detach", "see what runs: feinschliff status"],
    )
