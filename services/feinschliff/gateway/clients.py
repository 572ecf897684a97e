"""The services behind the door, one channel each, made on the loop that uses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from feinschliff.gateway.settings import GatewaySettings
from feinschliff.kit import client
from feinschliff.kit.metrics import Metrics
from feinschliff.v1 import (
    evaluation_pb2_grpc,
    inference_pb2_grpc,
    ingestion_pb2_grpc,
    registry_pb2_grpc,
    training_pb2_grpc,
)

if TYPE_CHECKING:
    from feinschliff.v1.evaluation_pb2_grpc import EvaluationServiceAsyncStub
    from feinschliff.v1.inference_pb2_grpc import DeploymentServiceAsyncStub, InferenceServiceAsyncStub
    from feinschliff.v1.ingestion_pb2_grpc import (
        CompletionLogServiceAsyncStub,
        DatasetServiceAsyncStub,
        DatasetServiceStub,
    )
    from feinschliff.v1.registry_pb2_grpc import RegistryServiceAsyncStub
    from feinschliff.v1.training_pb2_grpc import TrainingServiceAsyncStub

DATASETS = "feinschliff.v1.DatasetService"
COMPLETIONS = "feinschliff.v1.CompletionLogService"
TRAINING = "feinschliff.v1.TrainingService"
REGISTRY = "feinschliff.v1.RegistryService"
INFERENCE = "feinschliff.v1.InferenceService"
DEPLOYMENTS = "feinschliff.v1.DeploymentService"


@dataclass(frozen=True)
class Clients:
    """Stubs of the services that the gateway calls; `uploads` is the one for threads."""

    uploads: DatasetServiceStub
    datasets: DatasetServiceAsyncStub
    completions: CompletionLogServiceAsyncStub
    training: TrainingServiceAsyncStub
    registry: RegistryServiceAsyncStub
    inference: InferenceServiceAsyncStub
    deployments: DeploymentServiceAsyncStub
    evaluation: EvaluationServiceAsyncStub


def connect(settings: GatewaySettings, metrics: Metrics) -> Clients:
    """Stubs for the running loop; a service that does not answer yet is no error before the first call."""
    seconds = settings.call_timeout_seconds
    ingestion = client.channel(
        settings.ingestion_address,
        name="ingestion",
        services=[DATASETS, COMPLETIONS],
        metrics=metrics,
        timeout_seconds=seconds,
    )
    training = client.channel(
        settings.training_address, name="training", services=[TRAINING], metrics=metrics, timeout_seconds=seconds
    )
    registry = client.channel(
        settings.registry_address, name="registry", services=[REGISTRY], metrics=metrics, timeout_seconds=seconds
    )
    # Chat is not repeated here: the caller's own client does that, and knows what a second answer costs.
    inference = client.channel(
        settings.inference_address, name="inference", services=[DEPLOYMENTS], metrics=metrics, timeout_seconds=seconds
    )
    # A grader that asks a judge costs what an answer costs, and is not repeated here either.
    evaluation = client.channel(
        settings.evaluation_address, name="evaluation", metrics=metrics, timeout_seconds=seconds
    )
    uploads = client.sync_channel(
        settings.ingestion_address, name="ingestion", metrics=metrics, timeout_seconds=seconds
    )
    return Clients(
        ingestion_pb2_grpc.DatasetServiceStub(uploads),
        ingestion_pb2_grpc.DatasetServiceStub(ingestion),
        ingestion_pb2_grpc.CompletionLogServiceStub(ingestion),
        training_pb2_grpc.TrainingServiceStub(training),
        registry_pb2_grpc.RegistryServiceStub(registry),
        inference_pb2_grpc.InferenceServiceStub(inference),
        inference_pb2_grpc.DeploymentServiceStub(inference),
        evaluation_pb2_grpc.EvaluationServiceStub(evaluation),
    )
