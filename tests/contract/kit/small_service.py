"""A whole service as a process: `python -m tests.contract.kit.small_service`, told what to do by its environment."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from pydantic import Field

from feinschliff.kit.errors import WrongState
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop, Room, Servicer, run
from feinschliff.kit.settings import Settings
from feinschliff.v1 import ingestion_pb2, ingestion_pb2_grpc, training_pb2, training_pb2_grpc
from tests.contract.kit.rooms import DATASETS, TRAINING


class IngestionSettings(Settings):
    """Ports as a room has them, and a folder for traces of what happened."""

    ingestion_port: int = Field(0, ge=0, le=65535)
    ingestion_metrics_port: int = Field(0, ge=0, le=65535)
    traces: Path = Path(os.devnull)
    newer_tables: bool = False


class Slow(ingestion_pb2_grpc.DatasetServiceServicer):
    """GetDataset takes as many seconds as the dataset's name says after its last slash."""

    def __init__(self, traces: Path) -> None:
        self._traces = traces

    async def GetDataset(
        self, request: ingestion_pb2.GetDatasetRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ingestion_pb2.Dataset:
        (self._traces / "begun").touch()
        await asyncio.sleep(float(request.name.rpartition("/")[2]))
        return ingestion_pb2.Dataset(name=request.name)


class Endless(training_pb2_grpc.TrainingServiceServicer):
    async def WatchTrainingJob(
        self, request: training_pb2.WatchTrainingJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[training_pb2.WatchTrainingJobResponse]:
        yield training_pb2.WatchTrainingJobResponse()
        await asyncio.Event().wait()


def wire(settings: IngestionSettings) -> Room:
    if settings.newer_tables:
        raise WrongState("SCHEMA_AHEAD", "A newer version migrated the tables.")

    async def loop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            (settings.traces / "loop ended").touch()

    return Room(
        name="ingestion",
        port=settings.ingestion_port,
        metrics_port=settings.ingestion_metrics_port,
        servicers=[
            Servicer(ingestion_pb2_grpc.add_DatasetServiceServicer_to_server, Slow(settings.traces), DATASETS),
            Servicer(training_pb2_grpc.add_TrainingServiceServicer_to_server, Endless(), TRAINING),
        ],
        loops=[Loop("endless", loop)],
        checks={},
        close=[(settings.traces / "closed").touch],
        metrics=Metrics("ingestion"),
    )


if __name__ == "__main__":
    run(wire, IngestionSettings)
