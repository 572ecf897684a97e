"""Request streams that are read by a thread, as uploads are."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from feinschliff.kit.errors import Refusal
from feinschliff.kit.threads import in_flight, offload, pull
from feinschliff.v1 import ingestion_pb2, ingestion_pb2_grpc
from tests.contract.kit.rooms import Datasets, eventually, opened

NAME = "projects/default/datasets/d"


class Reading(Datasets):
    """Reads an upload in a thread, as ingestion does, and notes how the stream ended."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.ended: list[str] = []

    async def UploadDatasetVersion(
        self, requests: AsyncIterator[ingestion_pb2.UploadDatasetVersionRequest], context: object
    ) -> ingestion_pb2.DatasetVersion:
        count = await offload(self._read, requests, asyncio.get_running_loop())
        return ingestion_pb2.DatasetVersion(name=str(count))

    def _read(self, requests: AsyncIterator[object], loop: asyncio.AbstractEventLoop) -> int:
        count = 0
        try:
            for _ in pull(requests, loop):
                count += 1
                loop.call_soon_threadsafe(self.begun.set)
        except Refusal as refusal:
            self.ended.append(refusal.reason)
            raise
        self.ended.append("complete")
        return count


@pytest.mark.parametrize("how", ["cancel", "disconnect", "deadline"])
async def test_a_client_that_leaves_in_mid_stream_is_not_taken_for_the_end_of_its_stream(how: str) -> None:
    reading = Reading()
    async with opened(datasets=reading) as room, grpc.aio.insecure_channel(room.address) as channel:
        never = asyncio.Event()

        async def messages() -> AsyncIterator[ingestion_pb2.UploadDatasetVersionRequest]:
            yield ingestion_pb2.UploadDatasetVersionRequest(header=ingestion_pb2.UploadHeader(parent=NAME))
            yield ingestion_pb2.UploadDatasetVersionRequest(chunk=b"x")
            await never.wait()

        timeout_seconds = 0.3 if how == "deadline" else None
        call = ingestion_pb2_grpc.DatasetServiceStub(channel).UploadDatasetVersion(messages(), timeout=timeout_seconds)
        waiting = asyncio.ensure_future(call.code())
        await asyncio.wait_for(reading.begun.wait(), 5)
        if how == "cancel":
            call.cancel()
        if how == "disconnect":
            await channel.close()
        await waiting
        await eventually(lambda: reading.ended == ["CALL_CANCELLED"], "the reader was told")
        await eventually(lambda: in_flight() == 0, "its thread is free")
        never.set()


async def test_a_stream_that_ends_is_read_to_its_end() -> None:
    reading = Reading()
    async with opened(datasets=reading) as room:
        header = ingestion_pb2.UploadHeader(parent=NAME)
        messages = [ingestion_pb2.UploadDatasetVersionRequest(header=header)]
        messages += [ingestion_pb2.UploadDatasetVersionRequest(chunk=b"x")] * 200
        assert (
            await ingestion_pb2_grpc.DatasetServiceStub(room.channel).UploadDatasetVersion(iter(messages))
        ).name == "201"
    assert reading.ended == ["complete"]
