"""A small room for these tests: a real server whose service does what each test wants."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc

from feinschliff.kit.clock import SystemClock
from feinschliff.kit.context import current_request_id
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop, Room, Running, Servicer, start
from feinschliff.kit.settings import Settings
from feinschliff.v1 import inference_pb2, ingestion_pb2, ingestion_pb2_grpc, training_pb2, training_pb2_grpc

DATASETS = "feinschliff.v1.DatasetService"
TRAINING = "feinschliff.v1.TrainingService"
Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["DATASETS", "TRAINING", "Datasets", "Open", "Training", "inference_pb2", "opened", "quick_settings"]


class Datasets(ingestion_pb2_grpc.DatasetServiceServicer):
    """Unary and client-streaming calls; `act` runs inside GetDataset, what it raises or returns is the answer."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.act: Callable[[], Any] = lambda: None

    async def GetDataset(self, request: ingestion_pb2.GetDatasetRequest, context: Context) -> ingestion_pb2.Dataset:
        self.seen.append(request)
        result = self.act()
        if asyncio.iscoroutine(result):
            await result
        return ingestion_pb2.Dataset(name=request.name, description=current_request_id())

    async def CreateDataset(
        self, request: ingestion_pb2.CreateDatasetRequest, context: Context
    ) -> ingestion_pb2.Dataset:
        self.seen.append(request)
        self.act()
        return request.dataset

    async def DeleteDataset(self, request: ingestion_pb2.DeleteDatasetRequest, context: Context) -> None:
        self.seen.append(request)
        self.act()

    async def UploadDatasetVersion(
        self, requests: AsyncIterator[ingestion_pb2.UploadDatasetVersionRequest], context: Context
    ) -> ingestion_pb2.DatasetVersion:
        async for request in requests:
            self.seen.append(request)
        return ingestion_pb2.DatasetVersion(name="done")


class Training(training_pb2_grpc.TrainingServiceServicer):
    """A watch that gives `first` answers and then waits for ever; `left` is set when its generator is closed."""

    def __init__(self, first: int = 1) -> None:
        self._first = first
        self.left = asyncio.Event()

    async def WatchTrainingJob(
        self, request: training_pb2.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[training_pb2.WatchTrainingJobResponse]:
        try:
            for _ in range(self._first):
                yield training_pb2.WatchTrainingJobResponse()
            await asyncio.Event().wait()
        finally:
            self.left.set()


class Open(NamedTuple):
    """An open room, a channel to it, and its service."""

    running: Running
    channel: grpc.aio.Channel
    address: str
    metrics: Metrics
    datasets: Datasets
    training: Training


def quick_settings(**values: Any) -> Settings:
    return Settings(**{"drain_seconds": 0, "grace_seconds": 5, "check_seconds": 0.02, **values})


@asynccontextmanager
async def opened(
    *,
    checks: Mapping[str, Callable[[], None]] | None = None,
    loops: list[Loop] | None = None,
    settings: Settings | None = None,
    close: list[Callable[[], None]] | None = None,
    name: str = "ingestion",
    datasets: Datasets | None = None,
) -> AsyncIterator[Open]:
    datasets, training, metrics = datasets or Datasets(), Training(), Metrics(name)
    room = Room(
        name=name,
        port=0,
        metrics_port=0,
        servicers=[
            Servicer(ingestion_pb2_grpc.add_DatasetServiceServicer_to_server, datasets, DATASETS),
            Servicer(training_pb2_grpc.add_TrainingServiceServicer_to_server, training, TRAINING),
        ],
        loops=loops or [],
        checks=checks or {},
        close=close or [],
        metrics=metrics,
    )
    running = await start([room], settings or quick_settings())
    address = f"127.0.0.1:{running.ports[name]}"
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Open(running, channel, address, metrics, datasets, training)
    finally:
        await running.stop()


async def eventually(condition: Callable[[], bool], what: str, timeout_seconds: float = 5) -> None:
    """Returns as soon as the condition holds; fails, saying `what`, when the time is up."""
    clock = SystemClock()
    until = clock.monotonic() + timeout_seconds
    while not condition():
        assert clock.monotonic() < until, f"{what}: not within {timeout_seconds} s"
        await asyncio.sleep(0.005)
