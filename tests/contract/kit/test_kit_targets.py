"""Targets with several addresses: every server behind them gets its share, and one that leaves takes no call along."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from feinschliff.kit import client
from feinschliff.v1 import ingestion_pb2, ingestion_pb2_grpc
from tests.contract.kit.rooms import DATASETS, Open, eventually, opened

NAME = "projects/default/datasets/d"
GET = ingestion_pb2.GetDatasetRequest(name=NAME)


@pytest.fixture
async def room() -> AsyncIterator[Open]:
    async with opened() as open_room:
        yield open_room
    await client.close_channels()


@pytest.mark.parametrize("services", [(), (DATASETS,)])
async def test_calls_go_to_every_address_of_a_target_in_turns(services: tuple[str, ...]) -> None:
    async with opened() as one, opened() as two:
        target = f"ipv4:{one.address},{two.address}"
        stub = ingestion_pb2_grpc.DatasetServiceStub(client.channel(target, name="ingestion", services=services))
        await _asked_by_now(stub, one, two)
        begun = len(one.datasets.seen), len(two.datasets.seen)
        for _ in range(10):
            await stub.GetDataset(GET)
        assert (len(one.datasets.seen) - begun[0], len(two.datasets.seen) - begun[1]) == (5, 5)
        await client.close_channels()


async def test_a_server_that_leaves_takes_no_call_with_it_while_another_answers() -> None:
    async with opened() as one, opened() as two:
        channel = client.sync_channel(f"ipv4:{one.address},{two.address}", name="ingestion", services=(DATASETS,))
        stub = ingestion_pb2_grpc.DatasetServiceStub(channel)
        stopped = threading.Event()

        def call_all_the_while() -> None:
            while not stopped.is_set():
                stub.GetDataset(GET, timeout=5)
            for _ in range(10):
                stub.GetDataset(GET, timeout=5)

        calling = asyncio.ensure_future(asyncio.to_thread(call_all_the_while))
        await eventually(lambda: bool(one.datasets.seen and two.datasets.seen), "both are asked")
        await one.running.stop()
        stopped.set()
        await calling
        assert len(two.datasets.seen) > 10
        client.close_sync_channels()


async def test_a_name_is_resolved_to_all_its_addresses(room: Open) -> None:
    _, _, port = room.address.partition(":")
    for target in (f"dns:///localhost:{port}", f"localhost:{port}", f"127.0.0.1:{port}"):
        stub = ingestion_pb2_grpc.DatasetServiceStub(client.channel(target, name="ingestion", services=(DATASETS,)))
        assert (await stub.GetDataset(GET, timeout=5)).name == NAME


async def _asked_by_now(stub: ingestion_pb2_grpc.DatasetServiceStub, *rooms: Open) -> None:
    """Calls until each has been asked: connections come up one after the other."""
    async with asyncio.timeout(5):
        while not all(room.datasets.seen for room in rooms):
            await stub.GetDataset(GET)
            await asyncio.sleep(0.005)
