"""Calling other services: what is repeated, what is passed on, what is reused."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from feinschliff.kit import client
from feinschliff.kit.context import current_deadline, current_request_id, request_context
from feinschliff.kit.errors import Internal, Refusal, TimedOut, Unavailable, WrongState, from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.v1 import ingestion_pb2, ingestion_pb2_grpc, training_pb2, training_pb2_grpc
from tests.contract.kit.rooms import DATASETS, TRAINING, Open, eventually, opened

NAME = "projects/default/datasets/d"
GET = ingestion_pb2.GetDatasetRequest(name=NAME)


@pytest.fixture
async def room() -> AsyncIterator[Open]:
    async with opened() as open_room:
        yield open_room
    await client.close_channels()


class Failing:
    """Refuses the first `times` calls, then lets them pass."""

    def __init__(self, times: int, refusal: Refusal) -> None:
        self._left = times
        self._refusal = refusal

    def __call__(self) -> None:
        if self._left:
            self._left -= 1
            raise self._refusal


DOWN = Unavailable("DATABASE_UNAVAILABLE", "Down.")


def datasets(room: Open, **options: Any) -> ingestion_pb2_grpc.DatasetServiceStub:
    services = (DATASETS,)
    return ingestion_pb2_grpc.DatasetServiceStub(
        client.channel(room.address, name="ingestion", services=services, **options)
    )


async def test_a_read_is_repeated_while_the_service_is_unavailable(room: Open) -> None:
    room.datasets.act = Failing(2, DOWN)
    assert (await datasets(room).GetDataset(GET)).name == NAME
    assert len(room.datasets.seen) == 3


async def test_a_read_is_not_repeated_for_another_refusal(room: Open) -> None:
    room.datasets.act = Failing(1, WrongState("NOT_NOW", "No."))
    with pytest.raises(grpc.RpcError) as caught:
        await datasets(room).GetDataset(GET)
    assert from_rpc_error(caught.value).reason == "NOT_NOW"
    assert len(room.datasets.seen) == 1


async def test_a_create_is_repeated_under_one_request_id(room: Open) -> None:
    room.datasets.act = Failing(2, DOWN)
    request = ingestion_pb2.CreateDatasetRequest(
        parent="projects/default", dataset=ingestion_pb2.Dataset(display_name="d")
    )
    await datasets(room).CreateDataset(request)
    ids = [seen.request_id for seen in room.datasets.seen]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert len(ids[0]) == 32
    assert request.request_id == "", "the caller's message is its own"


async def test_a_creates_own_request_id_is_kept(room: Open) -> None:
    dataset = ingestion_pb2.Dataset(display_name="d")
    request = ingestion_pb2.CreateDatasetRequest(parent="projects/default", dataset=dataset, request_id="mine")
    await datasets(room).CreateDataset(request)
    assert room.datasets.seen[0].request_id == "mine"


async def test_a_delete_is_never_repeated(room: Open) -> None:
    room.datasets.act = Failing(1, DOWN)
    with pytest.raises(grpc.RpcError):
        await datasets(room).DeleteDataset(ingestion_pb2.DeleteDatasetRequest(name=NAME))
    assert len(room.datasets.seen) == 1


async def test_a_service_that_never_comes_back_is_unavailable_with_its_own_reason(room: Open) -> None:
    room.datasets.act = Failing(100, DOWN)
    with pytest.raises(grpc.RpcError) as caught:
        await datasets(room).GetDataset(GET)
    assert from_rpc_error(caught.value).reason == "DATABASE_UNAVAILABLE"
    assert len(room.datasets.seen) == client.RETRY_POLICY["maxAttempts"]


async def test_no_connection_is_a_refusal_too() -> None:
    stub = ingestion_pb2_grpc.DatasetServiceStub(client.channel("127.0.0.1:1", name="nobody"))
    with pytest.raises(grpc.RpcError) as caught:
        await stub.GetDataset(GET)
    got = from_rpc_error(caught.value)
    assert isinstance(got, Unavailable)
    assert got.reason == "SERVICE_UNREACHABLE"
    await client.close_channels()


async def test_the_request_id_is_passed_on_and_so_is_what_is_left_of_the_deadline(room: Open) -> None:
    seen: list[tuple[str, float]] = []

    async with opened(name="training") as front:

        async def forward() -> None:
            await datasets(room).GetDataset(GET)

        def note() -> None:
            until = current_deadline()
            assert until is not None
            seen.append((current_request_id(), until - time.monotonic()))

        front.datasets.act, room.datasets.act = forward, note
        stub = ingestion_pb2_grpc.DatasetServiceStub(front.channel)
        await stub.GetDataset(GET, timeout=2, metadata=(("x-request-id", "req-1"),))
    assert seen[0][0] == "req-1"
    assert 0 < seen[0][1] < 2.1


async def test_work_that_a_call_leaves_behind_is_free_of_its_deadline(room: Open) -> None:
    left: list[asyncio.Task[None]] = []
    go = asyncio.Event()

    async with opened(name="training") as front:

        async def later() -> None:
            await go.wait()
            assert current_deadline() is None
            assert (await datasets(room).GetDataset(GET)).description == "req-2", "the request id stays with it"

        front.datasets.act = lambda: left.append(asyncio.ensure_future(later()))
        stub = ingestion_pb2_grpc.DatasetServiceStub(front.channel)
        await stub.GetDataset(GET, timeout=1, metadata=(("x-request-id", "req-2"),))
        await asyncio.wait(left, timeout=1.1)
        go.set()
        await asyncio.wait_for(left[0], 5)


async def refused_through(front: Open, room: Open, refusal: Refusal) -> Refusal:
    async def forward() -> None:
        await ingestion_pb2_grpc.DatasetServiceStub(client.channel(room.address, name="plain")).GetDataset(GET)

    room.datasets.act, front.datasets.act = Failing(1, refusal), forward
    with pytest.raises(grpc.RpcError) as caught:
        await ingestion_pb2_grpc.DatasetServiceStub(front.channel).GetDataset(GET)
    return from_rpc_error(caught.value)


async def test_another_services_outage_is_passed_on_and_its_other_refusals_are_our_fault(room: Open) -> None:
    async with opened(name="training") as front:
        got = await refused_through(front, room, DOWN)
        assert isinstance(got, Unavailable)
        assert got.reason == "DATABASE_UNAVAILABLE"
        got = await refused_through(front, room, WrongState("NOT_NOW", "No."))
        assert isinstance(got, Internal)
        assert got.metadata["error_id"]


async def test_work_that_is_no_call_passes_on_its_own_request_id(room: Open) -> None:
    with request_context("job-7"):
        assert (await datasets(room).GetDataset(GET)).description == "job-7"


async def test_a_call_without_a_deadline_gets_the_channels_default(room: Open) -> None:
    room.datasets.act = lambda: asyncio.Event().wait()
    with pytest.raises(grpc.RpcError) as caught:
        await datasets(room, timeout_seconds=0.2).GetDataset(GET)
    got = from_rpc_error(caught.value)
    assert isinstance(got, TimedOut)
    assert got.reason == "DEADLINE_EXCEEDED"


async def test_a_stream_has_no_default_deadline_and_can_be_cancelled(room: Open) -> None:
    metrics = Metrics("gateway")
    channel = client.channel(room.address, name="training", metrics=metrics, timeout_seconds=0.05)
    watch = training_pb2_grpc.TrainingServiceStub(channel).WatchTrainingJob(
        training_pb2.WatchTrainingJobRequest(name="projects/default/trainingJobs/j")
    )
    async for _ in watch:
        break
    await asyncio.wait({asyncio.ensure_future(room.training.left.wait())}, timeout=0.2)
    assert not room.training.left.is_set()
    watch.cancel()
    await asyncio.wait_for(room.training.left.wait(), 5)
    labels = {"grpc_type": "server_stream", "grpc_service": TRAINING, "grpc_method": "WatchTrainingJob"}
    await eventually(
        lambda: metrics.value("grpc_client_handled_total", **labels, grpc_code="CANCELLED") == 1, "counted"
    )


async def test_calls_to_others_are_counted_by_code(room: Open) -> None:
    metrics = Metrics("gateway")
    stub = datasets(room, metrics=metrics)
    await stub.GetDataset(GET)
    room.datasets.act = Failing(1, WrongState("NOT_NOW", "No."))
    with pytest.raises(grpc.RpcError):
        await stub.GetDataset(GET)
    labels = {"grpc_type": "unary", "grpc_service": DATASETS, "grpc_method": "GetDataset"}
    assert metrics.value("grpc_client_started_total", **labels) == 2
    for code in ("OK", "FAILED_PRECONDITION"):
        await eventually(
            lambda code=code: metrics.value("grpc_client_handled_total", **labels, grpc_code=code) == 1, code
        )


async def test_one_channel_per_address(room: Open) -> None:
    one = client.channel(room.address, name="ingestion")
    assert client.channel(room.address, name="ingestion") is one
    assert client.channel("127.0.0.1:1", name="ingestion") is not one


def test_another_event_loop_gets_its_own_channel() -> None:
    async def one() -> int:
        made = client.channel("127.0.0.1:1", name="x")
        await client.close_channels()
        return id(made)

    async def both_open() -> grpc.aio.Channel:
        return client.channel("127.0.0.1:1", name="x")

    first = asyncio.run(both_open())
    second = asyncio.run(both_open())
    assert first is not second
    assert asyncio.run(one())


async def test_a_thread_calls_with_the_same_promises(room: Open) -> None:
    room.datasets.act = Failing(2, DOWN)
    metrics = Metrics("training")

    def work() -> str:
        channel = client.sync_channel(room.address, name="ingestion", services=(DATASETS,), metrics=metrics)
        assert client.sync_channel(room.address, name="ingestion", services=(DATASETS,), metrics=metrics) is channel
        with request_context("job-8"):
            return str(ingestion_pb2_grpc.DatasetServiceStub(channel).GetDataset(GET).description)

    assert await asyncio.to_thread(work) == "job-8"
    assert len(room.datasets.seen) == 3
    labels = {"grpc_type": "unary", "grpc_service": DATASETS, "grpc_method": "GetDataset", "grpc_code": "OK"}
    await eventually(lambda: metrics.value("grpc_client_handled_total", **labels) == 1, "counted")
    client.close_sync_channels()


async def test_a_thread_gets_refusals_as_types(room: Open) -> None:
    room.datasets.act = Failing(1, WrongState("NOT_NOW", "No.", job="j"))

    def work() -> Refusal:
        channel = client.sync_channel(room.address, name="ingestion")
        with pytest.raises(grpc.RpcError) as caught:
            ingestion_pb2_grpc.DatasetServiceStub(channel).GetDataset(GET)
        return from_rpc_error(caught.value)

    got = await asyncio.to_thread(work)
    assert isinstance(got, WrongState)
    assert (got.reason, got.metadata) == ("NOT_NOW", {"job": "j"})
    client.close_sync_channels()


async def test_a_thread_that_never_gets_an_answer_stops_at_the_default_deadline(room: Open) -> None:
    room.datasets.act = lambda: asyncio.Event().wait()

    def work() -> Refusal:
        channel = client.sync_channel(room.address, name="ingestion", timeout_seconds=0.2)
        with pytest.raises(grpc.RpcError) as caught:
            ingestion_pb2_grpc.DatasetServiceStub(channel).GetDataset(GET)
        return from_rpc_error(caught.value)

    assert isinstance(await asyncio.to_thread(work), TimedOut)
    client.close_sync_channels()
