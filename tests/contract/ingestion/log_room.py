"""The completion log alone, served over real gRPC on a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from feinschliff.ingestion.completion_service import CompletionLogService
from feinschliff.ingestion.completions import Completions
from feinschliff.ingestion.settings import IngestionSettings
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Refusal, from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Room, Servicer, start
from feinschliff.v1 import common_pb2, ingestion_pb2_grpc
from feinschliff.v1 import ingestion_pb2 as pb

BYTES_MAX = 20_000
SERVICE = "feinschliff.v1.CompletionLogService"


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


class Log:
    """The room, its rules, its clock, and a stub."""

    def __init__(self, completions: Completions, clock: Clock, stub: Any, metrics: Metrics) -> None:
        self.completions = completions
        self.clock = clock
        self.stub = stub
        self.metrics = metrics

    async def call(self, method: str, **fields: Any) -> Any:
        """One call by its name; raises the refusal that the service raised."""
        made = {
            "AddFeedback": pb.AddFeedbackRequest,
            "ListFeedback": pb.ListFeedbackRequest,
        }.get(method) or getattr(pb, f"{method}Request")
        try:
            return await getattr(self.stub, method)(made(**fields), timeout=20)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def refused(self, method: str, **fields: Any) -> Refusal:
        try:
            answer = await self.call(method, **fields)
        except Refusal as refusal:
            return refusal
        raise AssertionError(f"was not refused but answered {answer}")

    async def record(self, id: str = "", *, project: str = "p", request_id: str = "", **fields: Any) -> pb.Completion:
        answer: pb.Completion = await self.call(
            "RecordCompletion",
            parent=f"projects/{project}",
            completion_id=id,
            completion=completion(**fields),
            request_id=request_id,
        )
        return answer

    async def ids(self, *, project: str = "p", **query: Any) -> list[str]:
        """Ids of all pages in their order."""
        found: list[str] = []
        token = ""
        while True:
            page = await self.call("ListCompletions", parent=f"projects/{project}", page_token=token, **query)
            found += [one.name.rsplit("/", 1)[1] for one in page.completions]
            token = page.next_page_token
            if not token:
                return found


@asynccontextmanager
async def open_log(database: Database, port: int = 0) -> AsyncIterator[Log]:
    clock, metrics = Clock(), Metrics("ingestion")
    completions = Completions(database, clock, metrics, bytes_max=BYTES_MAX)
    servicer = Servicer(
        ingestion_pb2_grpc.add_CompletionLogServiceServicer_to_server, CompletionLogService(completions), SERVICE
    )
    room = Room("ingestion", port, 0, [servicer], [], {}, [], metrics)
    running = await start([room], IngestionSettings(drain_seconds=0, grace_seconds=2))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.ports['ingestion']}") as channel:
        yield Log(completions, clock, ingestion_pb2_grpc.CompletionLogServiceStub(channel), metrics)
    await running.stop()


def turn(text: str, role: common_pb2.Role.ValueType = common_pb2.ROLE_USER) -> common_pb2.Message:
    return common_pb2.Message(role=role, parts=[common_pb2.Part(text=text)])


def completion(text: str = "hello", **fields: Any) -> pb.Completion:
    return pb.Completion(
        **{
            "model": "pypi:tiny",
            "messages": [turn(text)],
            "response": turn("yes", common_pb2.ROLE_ASSISTANT),
            "finish_reason": common_pb2.FINISH_REASON_STOP,
            **fields,
        }
    )
