"""The probe port: one place that says how every room of a process is, from its start to its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feinschliff.kit.errors import StartError
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Room, Running, Servicer, start
from feinschliff.v1 import ingestion_pb2_grpc, training_pb2_grpc
from tests.contract.kit.rooms import DATASETS, TRAINING, Datasets, Training, quick_settings
from tests.support.certificates import Authority

SERVING, NOT_SERVING = "SERVING", "NOT_SERVING"


class Dependency:
    """Answers or not, as a test says."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem

    def check(self) -> None:
        if self.problem is not None:
            raise self.problem


class Probed(NamedTuple):
    running: Running
    channel: grpc.aio.Channel

    async def says(self, service: str = "") -> str:
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def becomes(self, wanted: str, service: str = "") -> None:
        async with asyncio.timeout(5):
            while await self.says(service) != wanted:
                await asyncio.sleep(0.005)


def room(name: str, servicers: Sequence[Servicer], dependency: Dependency, **more: Any) -> Room:
    return Room(name, 0, 0, servicers, [], {"it": dependency.check}, more.pop("close", []), Metrics(name), **more)


def ingestion(dependency: Dependency, **more: Any) -> Room:
    add = ingestion_pb2_grpc.add_DatasetServiceServicer_to_server
    return room("ingestion", [Servicer(add, Datasets(), DATASETS)], dependency, **more)


def training(dependency: Dependency) -> Room:
    add = training_pb2_grpc.add_TrainingServiceServicer_to_server
    return room("training", [Servicer(add, Training(), TRAINING)], dependency)


def gateway(dependency: Dependency) -> Room:
    return room("gateway", [], dependency, http=asyncio.Event().wait)


@asynccontextmanager
async def probed(rooms: Sequence[Room], port: int, **settings: Any) -> AsyncIterator[Probed]:
    running = await start(rooms, quick_settings(probe_port=port, **settings))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Probed(running, channel)
    finally:
        await running.stop()


async def test_it_says_for_each_service_what_its_room_says_and_for_all_that_all_are_ready(
    free_port: Callable[[], int],
) -> None:
    one, two = Dependency(), Dependency()
    async with probed([ingestion(one), training(two)], free_port()) as probe:
        assert [await probe.says(name) for name in ("", "live", DATASETS, TRAINING)] == [SERVING] * 4
        two.problem = OSError("down")
        await probe.becomes(NOT_SERVING)
        assert [await probe.says(name) for name in ("live", DATASETS, TRAINING)] == [SERVING, SERVING, NOT_SERVING]
        one.problem, two.problem = OSError("down"), None
        await probe.becomes(NOT_SERVING, DATASETS)
        await probe.becomes(SERVING, TRAINING)
        assert await probe.says() == NOT_SERVING
        one.problem = None
        await probe.becomes(SERVING)


async def test_a_room_of_http_counts_although_it_has_no_grpc_port(free_port: Callable[[], int]) -> None:
    services = Dependency()
    async with probed([ingestion(Dependency()), gateway(services)], free_port()) as probe:
        assert await probe.says() == SERVING
        services.problem = RuntimeError("no service answers")
        await probe.becomes(NOT_SERVING)
        assert [await probe.says(name) for name in ("live", DATASETS)] == [SERVING, SERVING]


async def test_a_watcher_sees_the_change(free_port: Callable[[], int]) -> None:
    dependency = Dependency()
    async with probed([ingestion(dependency)], free_port()) as probe:
        watch = health_pb2_grpc.HealthStub(probe.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        dependency.problem = OSError("down")
        assert (await asyncio.wait_for(watch.read(), 5)).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_it_leaves_at_once_when_the_drain_begins_and_stays_until_all_is_closed(
    free_port: Callable[[], int],
) -> None:
    port, closing, go = free_port(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def close() -> None:
        loop.call_soon_threadsafe(closing.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)

    async with probed([ingestion(Dependency(), close=[close])], port, drain_seconds=0.2) as probe:
        stopping = asyncio.ensure_future(probe.running.stop())
        await probe.becomes(NOT_SERVING)
        assert not closing.is_set(), "said while the drain goes on"
        await asyncio.wait_for(closing.wait(), 5)
        assert [await probe.says(name) for name in ("", DATASETS, "live")] == [NOT_SERVING, NOT_SERVING, SERVING]
        go.set()
        await stopping
        with pytest.raises(grpc.RpcError):
            await probe.says("live")


async def test_it_is_plain_text_where_the_rooms_speak_tls(free_port: Callable[[], int], tmp_path: Path) -> None:
    files = Authority().pair(tmp_path)
    async with probed([ingestion(Dependency())], free_port(), **files.settings()) as probe:
        assert await probe.says(DATASETS) == SERVING


async def test_it_answers_nothing_but_health(free_port: Callable[[], int]) -> None:
    async with probed([ingestion(Dependency())], free_port()) as probe:
        call = probe.channel.unary_unary(f"/{DATASETS}/GetDataset", lambda raw: raw, lambda raw: raw)
        with pytest.raises(grpc.RpcError) as caught:
            await call(b"")
        assert isinstance(caught.value, grpc.aio.AioRpcError)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_in_use_stops_the_start_by_its_name_and_leaves_nothing_open() -> None:
    closed = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"^FEINSCHLIFF_PROBE_PORT: cannot listen on 127.0.0.1:{port}"):
            await start([ingestion(Dependency(), close=[lambda: closed.append(1)])], quick_settings(probe_port=port))
    assert closed == [1]
