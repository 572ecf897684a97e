"""The whole platform as on a cluster: every service a process of its own, on loopback, over one S3 server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from feinschliff.kit.client import sync_channel
from feinschliff.v1 import (
    evaluation_pb2_grpc,
    inference_pb2_grpc,
    ingestion_pb2,
    ingestion_pb2_grpc,
    registry_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from tests.support.ports import free_port
from tests.support.processes import Process, RoomProcess, room_process
from tests.support.s3 import S3Server
from tests.support.waiting import eventually

ROOMS = ("ingestion", "training", "evaluation", "registry", "inference")
FINAL = (training_pb2.TrainingJob.STATE_SUCCEEDED, training_pb2.TrainingJob.STATE_FAILED)


@dataclass
class Platform:
    """`rooms` by name, each killable and restartable by itself; `gateway_url` ends in /v1."""

    folder: Path
    s3: S3Server
    bucket: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports = {room: free_port() for room in (*ROOMS, "gateway")}
        self.metrics_ports = {room: free_port() for room in (*ROOMS, "gateway")}
        environment = self._environment()
        self.rooms: dict[str, RoomProcess] = {
            room: room_process(room, self.ports[room], environment, self.folder / "logs") for room in ROOMS
        }
        self.gateway: Process = room_process("gateway", self.ports["gateway"], environment, self.folder / "logs")
        self.gateway_url = f"http://127.0.0.1:{self.ports['gateway']}/v1"

    def _environment(self) -> dict[str, str]:
        environment = {
            "FEINSCHLIFF_HOME": str(self.folder / "home"),
            "FEINSCHLIFF_DRAIN_SECONDS": "0.2",
            "FEINSCHLIFF_GRACE_SECONDS": "5",
            "FEINSCHLIFF_OFFLINE": "true",
            **self.s3.environment(self.bucket),
        }
        for room, port in self.ports.items():
            environment[f"FEINSCHLIFF_{room.upper()}_PORT"] = str(port)
            environment[f"FEINSCHLIFF_{room.upper()}_METRICS_PORT"] = str(self.metrics_ports[room])
            if room != "gateway":
                environment[f"FEINSCHLIFF_{room.upper()}_ADDRESS"] = f"127.0.0.1:{port}"
        return environment | dict(self.settings)

    def start(self) -> None:
        for process in (*self.rooms.values(), self.gateway):
            process.start()
        for room in self.rooms.values():
            room.wait_serving()
        self.wait_gateway()

    def wait_gateway(self) -> None:
        import urllib.request

        def ready() -> bool:
            self.gateway.check_alive()
            try:
                url = self.gateway_url.removesuffix("/v1") + "/readyz"
                with urllib.request.urlopen(url, timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        eventually(ready, 120, "gateway ready")

    def stop(self) -> None:
        for process in (self.gateway, *self.rooms.values()):
            process.close()

    def channel(self, room: str) -> grpc.Channel:
        return sync_channel(self.rooms[room].address, name=room)

    @property
    def datasets(self) -> ingestion_pb2_grpc.DatasetServiceStub:
        return ingestion_pb2_grpc.DatasetServiceStub(self.channel("ingestion"))

    @property
    def training(self) -> training_pb2_grpc.TrainingServiceStub:
        return training_pb2_grpc.TrainingServiceStub(self.channel("training"))

    @property
    def registry(self) -> registry_pb2_grpc.RegistryServiceStub:
        return registry_pb2_grpc.RegistryServiceStub(self.channel("registry"))

    @property
    def evaluation(self) -> evaluation_pb2_grpc.EvaluationServiceStub:
        return evaluation_pb2_grpc.EvaluationServiceStub(self.channel("evaluation"))

    @property
    def inference(self) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(self.channel("inference"))

    @property
    def deployments(self) -> inference_pb2_grpc.DeploymentServiceStub:
        return inference_pb2_grpc.DeploymentServiceStub(self.channel("inference"))

    def push(self, dataset: str, content: bytes, **split: float) -> ingestion_pb2.DatasetVersion:
        """Uploads a file as the dataset's next version."""
        header = ingestion_pb2.UploadHeader(
            parent=f"projects/default/datasets/{dataset}",
            filename=f"{dataset}.jsonl",
            create_dataset_if_missing=True,
            split=ingestion_pb2.SplitSpec(**split),  # type: ignore[arg-type]
        )
        requests = [ingestion_pb2.UploadDatasetVersionRequest(header=header)]
        step = 64 * 1024
        requests += [
            ingestion_pb2.UploadDatasetVersionRequest(chunk=content[start : start + step])
            for start in range(0, len(content), step)
        ]
        return self.datasets.UploadDatasetVersion(iter(requests), timeout=60)

    def train(self, dataset_version: str, base: str, **optimisation: float) -> training_pb2.TrainingJob:
        """Creates a small, deterministic job."""
        job = training_pb2.TrainingJob(
            recipe=training_pb2.TrainingRecipe(
                base_model=base,
                data=[training_pb2.DataSource(dataset_version=dataset_version)],
                optimisation=training_pb2.Optimisation(**optimisation),  # type: ignore[arg-type]
                precision=training_pb2.TrainingRecipe.PRECISION_FP32,
                checkpointing=training_pb2.Checkpointing(every_steps=2),
            )
        )
        request = training_pb2.CreateTrainingJobRequest(parent="projects/default", training_job=job)
        return self.training.CreateTrainingJob(request)

    def wait_job(self, name: str, timeout_seconds: float = 120) -> training_pb2.TrainingJob:
        """The job once it is over."""
        found = training_pb2.TrainingJob()

        def over() -> bool:
            try:
                answer = self.training.GetTrainingJob(training_pb2.GetTrainingJobRequest(name=name), timeout=5)
            except grpc.RpcError:
                return False
            found.CopyFrom(answer)
            return found.state in (*FINAL, training_pb2.TrainingJob.STATE_CANCELLED)

        eventually(over, timeout_seconds, f"{name} is over")
        return found
