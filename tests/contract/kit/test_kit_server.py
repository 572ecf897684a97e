"""One start and one stop for every service."""

import asyncio
import socket
import threading
import urllib.request
from collections.abc import Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from feinschliff.kit import opening
from feinschliff.kit.errors import StartError, from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop, Room, start
from feinschliff.kit.threads import offload
from feinschliff.v1 import ingestion_pb2, ingestion_pb2_grpc, training_pb2, training_pb2_grpc
from tests.contract.kit.rooms import DATASETS, TRAINING, Open, eventually, opened, quick_settings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ALL = ("", DATASETS, TRAINING)


async def health(room: Open, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(room.channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def becomes(room: Open, wanted: int, services: tuple[str, ...] = ALL) -> None:
    async with asyncio.timeout(5):
        while [await health(room, name) for name in services] != [wanted] * len(services):
            await asyncio.sleep(0.005)


class Dependency:
    """Answers or not, as a test says."""

    def __init__(self) -> None:
        self.problem: Exception | None = None

    def check(self) -> None:
        if self.problem is not None:
            raise self.problem


async def test_health_is_serving_for_each_service_and_all_once_the_checks_pass() -> None:
    async with opened(checks={"s3": lambda: None}) as room:
        assert [await health(room, name) for name in ALL] == [SERVING] * 3


async def test_health_of_an_unknown_service_is_not_found() -> None:
    async with opened() as room:
        with pytest.raises(grpc.RpcError) as caught:
            await health(room, "nobody")
    assert from_rpc_error(caught.value).code is grpc.StatusCode.NOT_FOUND


async def test_health_follows_a_dependency_down_and_up_by_itself_and_the_process_stays_live() -> None:
    s3 = Dependency()
    async with opened(checks={"s3": s3.check, "database": lambda: None}) as room:
        for _ in range(2):
            s3.problem = ConnectionRefusedError("no S3")
            await becomes(room, NOT_SERVING)
            assert await health(room, "live") == SERVING
            assert room.metrics.value("feinschliff_room_check_healthy", room="ingestion", check="s3") == 0
            assert room.metrics.value("feinschliff_room_check_healthy", room="ingestion", check="database") == 1
            s3.problem = None
            await becomes(room, SERVING)


async def test_a_watcher_of_health_sees_each_change() -> None:
    s3 = Dependency()
    async with opened(checks={"s3": s3.check}) as room:
        watch = health_pb2_grpc.HealthStub(room.channel).Watch(health_pb2.HealthCheckRequest(service=DATASETS))
        assert (await watch.read()).status == SERVING
        s3.problem = TimeoutError("slow")
        assert (await asyncio.wait_for(watch.read(), 5)).status == NOT_SERVING
        s3.problem = None
        assert (await asyncio.wait_for(watch.read(), 5)).status == SERVING


async def test_a_dependency_that_hangs_counts_as_down_and_blocks_nothing() -> None:
    release, asked = threading.Event(), []

    def hang() -> None:
        asked.append(1)
        release.wait(10)

    settings = quick_settings(check_timeout_seconds=0.1)
    async with opened(checks={"s3": hang}, settings=settings) as room:
        await becomes(room, NOT_SERVING)
        stub = ingestion_pb2_grpc.DatasetServiceStub(room.channel)
        await asyncio.wait_for(stub.GetDataset(ingestion_pb2.GetDatasetRequest(name="n")), 5)
        assert len(asked) == 1, "one that hangs is not asked again before it answers"
        release.set()
        await becomes(room, SERVING)


async def test_reflection_names_every_service() -> None:
    async with opened() as room:
        stub = reflection_pb2_grpc.ServerReflectionStub(room.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert {DATASETS, TRAINING, "grpc.health.v1.Health"} <= names


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        return str(response.read().decode())


async def test_the_metrics_port_shows_calls_and_the_process() -> None:
    async with opened() as room:
        stub = ingestion_pb2_grpc.DatasetServiceStub(room.channel)
        await stub.GetDataset(ingestion_pb2.GetDatasetRequest(name="n"))
        text = await asyncio.to_thread(scrape, room.running.metrics_ports["ingestion"])
    line = (
        'grpc_server_handled_total{grpc_code="OK",grpc_method="GetDataset",grpc_service="feinschliff.v1.DatasetService"'
    )
    assert line in text
    for name in ("process_resident_memory_bytes", "python_info", "feinschliff_ingestion_upload_bytes_total"):
        assert f"\n{name}" in text
    assert "feinschliff_training_" not in text


async def test_rooms_in_one_process_have_their_own_ports_health_and_metrics() -> None:
    broken = Dependency()
    broken.problem = OSError("down")
    async with opened(name="ingestion", checks={"s3": broken.check}) as one, opened(name="registry") as two:
        await becomes(one, NOT_SERVING)
        assert await health(two, "") == SERVING
        stub = ingestion_pb2_grpc.DatasetServiceStub(one.channel)
        await stub.GetDataset(ingestion_pb2.GetDatasetRequest(name="n"))
        labels = {"grpc_type": "unary", "grpc_service": DATASETS, "grpc_method": "GetDataset"}
        assert one.metrics.value("grpc_server_started_total", **labels) == 1
        assert two.metrics.value("grpc_server_started_total", **labels) == 0


def room_on(port: int, metrics_port: int, *, close: list[Callable[[], None]] | None = None) -> Room:
    from feinschliff.kit.server import Servicer
    from tests.contract.kit.rooms import Datasets

    servicer = Servicer(ingestion_pb2_grpc.add_DatasetServiceServicer_to_server, Datasets(), DATASETS)
    return Room("ingestion", port, metrics_port, [servicer], [], {}, close or [], Metrics("ingestion"))


@pytest.mark.parametrize("which", ["PORT", "METRICS_PORT"])
async def test_a_port_in_use_stops_the_start_by_the_settings_name_and_leaves_nothing_open(which: str) -> None:
    closed = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = (port, 0) if which == "PORT" else (0, port)
        with pytest.raises(StartError) as caught:
            await start([room_on(*ports, close=[lambda: closed.append(1)])], quick_settings())
    assert f"FEINSCHLIFF_INGESTION_{which}" in str(caught.value)
    assert str(port) in str(caught.value)
    assert closed == [1]


async def test_a_loop_that_fails_is_counted_and_begun_again() -> None:
    turns = []

    async def fragile() -> None:
        turns.append(1)
        if len(turns) == 1:
            raise RuntimeError("boom")
        await asyncio.Event().wait()

    async with opened(loops=[Loop("fragile", fragile)]) as room:
        await eventually(lambda: len(turns) == 2, "begun again")
        assert room.metrics.value("feinschliff_room_loop_errors_total", room="ingestion", loop="fragile") == 1


async def test_stop_lets_a_running_call_end() -> None:
    async with opened() as room:
        begun, go = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            await go.wait()

        room.datasets.act = work
        stub = ingestion_pb2_grpc.DatasetServiceStub(room.channel)
        call = asyncio.ensure_future(_answer(stub))
        await begun.wait()
        stopping = asyncio.ensure_future(room.running.stop())
        await asyncio.wait({stopping}, timeout=0.05)
        assert not stopping.done()
        go.set()
        assert (await call).name == "n"
        await stopping


async def test_new_calls_are_refused_with_a_reason_and_a_delay_while_running_ones_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "REFUSING_SECONDS", 10.0)
    async with opened(settings=quick_settings(grace_seconds=30)) as room:
        begun, go, hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            await go.wait()

        room.datasets.act = work
        stub = ingestion_pb2_grpc.DatasetServiceStub(room.channel)
        call = asyncio.ensure_future(_answer(stub))
        await begun.wait()
        stopping = asyncio.ensure_future(room.running.stop(hurry))

        async def refused() -> bool:
            room.datasets.act = lambda: None
            try:
                await _answer(stub)
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
                assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")
                assert refusal.retry_after_seconds == 1
                return True
            return False

        async with asyncio.timeout(10):
            while not await refused():
                await asyncio.sleep(0.01)
        go.set()
        assert (await call).name == "n"
        hurry.set()
        await stopping


async def _answer(stub: ingestion_pb2_grpc.DatasetServiceStub) -> ingestion_pb2.Dataset:
    return await stub.GetDataset(ingestion_pb2.GetDatasetRequest(name="n"))


async def test_stop_sends_watchers_elsewhere_at_once() -> None:
    async with opened() as room:
        watch = training_pb2_grpc.TrainingServiceStub(room.channel).WatchTrainingJob(
            training_pb2.WatchTrainingJobRequest(name="projects/default/trainingJobs/j")
        )
        await watch.read()
        async with asyncio.timeout(2):
            await room.running.stop()
        with pytest.raises(grpc.RpcError) as caught:
            await watch.read()
    refusal = from_rpc_error(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")


async def test_stop_cuts_what_outlives_the_grace() -> None:
    async with opened(settings=quick_settings(grace_seconds=0.1)) as room:
        room.datasets.act = lambda: asyncio.Event().wait()
        stub = ingestion_pb2_grpc.DatasetServiceStub(room.channel)
        call = asyncio.ensure_future(_answer(stub))
        await eventually(lambda: bool(room.datasets.seen), "begun")
        async with asyncio.timeout(3):
            await room.running.stop()
        with pytest.raises(grpc.RpcError):
            await call


async def test_an_adapter_that_does_not_close_does_not_keep_the_others_open() -> None:
    closed = []

    def stuck() -> None:
        raise OSError("stuck")

    async with opened(close=[stuck, lambda: closed.append(1)]):
        pass
    assert closed == [1]


async def test_a_room_without_servicers_serves_http_until_it_is_stopped() -> None:
    begun, ended = asyncio.Event(), []

    async def http() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("by the stop")

    s3 = Dependency()
    room = Room("gateway", 0, 0, [], [], {"s3": s3.check}, [], Metrics("gateway"), http=http)
    assert not room.readiness.is_ready
    running = await start([room], quick_settings())
    await asyncio.wait_for(begun.wait(), 5)
    assert room.readiness.is_ready
    s3.problem = OSError("down")
    await eventually(lambda: not room.readiness.is_ready, "not ready")
    assert "OSError: down" in room.readiness.failing["s3"]
    await running.stop()
    assert ended == ["by the stop"]


@pytest.mark.parametrize("how", ["ends", "raises"])
async def test_an_http_server_that_ends_by_itself_is_told(how: str) -> None:
    async def http() -> None:
        if how == "raises":
            raise OSError("no port")

    room = Room("gateway", 0, 0, [], [], {}, [], Metrics("gateway"), http=http)
    running = await start([room], quick_settings())
    assert await asyncio.wait_for(running.failure(), 5) == "gateway"
    await running.stop()


async def test_adapters_close_only_when_no_thread_uses_them_any_more() -> None:
    order, begun, go = [], threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(5)
        order.append("thread")

    async def loop() -> None:
        await offload(work)
        await asyncio.Event().wait()

    async with opened(loops=[Loop("busy", loop)], close=[lambda: order.append("close")]) as room:
        await asyncio.to_thread(begun.wait, 5)
        stopping = asyncio.ensure_future(room.running.stop())
        await asyncio.wait({stopping}, timeout=0.1)
        go.set()
        await stopping
    assert order[:2] == ["thread", "close"]
