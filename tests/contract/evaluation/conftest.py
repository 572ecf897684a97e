"""An evaluation room on loopback, with its peers, and short ways to talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from feinschliff.evaluation.__main__ import wire
from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.kit.server import Running, start
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc
from tests.contract.evaluation.peers import VERSION, Peers, conversations
from tests.support.waiting import eventually_async

PARENT = "projects/default"
FINAL = (pb.EvalRun.STATE_COMPLETED, pb.EvalRun.STATE_FAILED, pb.EvalRun.STATE_CANCELLED)


def exact(name: str = "exact", **changes: str) -> pb.Grader:
    check = {"input": "{{ sample.output_text }}", "reference": "{{ item.completion }}"} | changes
    return pb.Grader(
        name=name,
        string_check=pb.StringCheckGrader(
            input=check["input"], reference=check["reference"], operation=pb.StringCheckGrader.OPERATION_EQ
        ),
    )


def fuzzy(name: str = "near") -> pb.Grader:
    return pb.Grader(
        name=name,
        text_similarity=pb.TextSimilarityGrader(
            input="{{ sample.output_text }}",
            reference="{{ item.completion }}",
            evaluation_metric=pb.TextSimilarityGrader.METRIC_FUZZY_MATCH,
        ),
    )


@pytest.fixture
def tables_of() -> str:
    return "evaluation"


@pytest.fixture
def peers() -> Iterator[Peers]:
    """Ingestion with 12 conversations as VERSION, and inference that answers rightly."""
    peers = Peers()
    peers.ingestion.versions[VERSION] = {"train": conversations(12)}
    peers.start()
    yield peers
    peers.stop()


@dataclass
class Room:
    """A room that can be stopped and started again on the same database."""

    settings: EvaluationSettings
    running: Running | None = None
    channels: list[grpc.aio.Channel] = field(default_factory=list)
    stub: evaluation_pb2_grpc.EvaluationServiceAsyncStub = field(init=False)

    async def start(self) -> None:
        self.running = await start([wire(self.settings)], self.settings)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.running.ports['evaluation']}")
        self.channels.append(channel)
        self.stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)

    async def stop(self) -> None:
        if self.running is not None:
            await self.running.stop()
        self.running = None

    async def close(self) -> None:
        await self.stop()
        for channel in self.channels:
            await channel.close()

    async def eval(self, *graders: pb.Grader, eval_id: str = "", version: str = VERSION, **fields: object) -> pb.Eval:
        wanted = pb.Eval(dataset_version=version, graders=graders or [exact()], **fields)  # type: ignore[arg-type]
        return await self.stub.CreateEval(pb.CreateEvalRequest(parent=PARENT, eval_id=eval_id, eval=wanted))

    async def run(self, eval_: str, model: str = "router", **fields: object) -> pb.EvalRun:
        wanted = pb.EvalRun(model=model, **fields)  # type: ignore[arg-type]
        return await self.stub.CreateEvalRun(pb.CreateEvalRunRequest(parent=eval_, eval_run=wanted))

    async def get(self, run: str) -> pb.EvalRun:
        return await self.stub.GetEvalRun(pb.GetEvalRunRequest(name=run))

    async def over(self, run: str, timeout_seconds: float = 60) -> pb.EvalRun:
        """The run once it is over."""

        async def look() -> pb.EvalRun | None:
            seen = await self.get(run)
            return seen if seen.state in FINAL else None

        ended = await eventually_async(look, timeout_seconds, f"the end of {run}")
        assert ended is not None
        return ended

    async def measured(self, eval_: str, model: str = "router", **fields: object) -> pb.EvalRun:
        """A run, made and awaited."""
        return await self.over((await self.run(eval_, model, **fields)).name)

    async def done(self, run: str, items: int) -> None:
        async def enough() -> bool:
            return (await self.get(run)).progress.done >= items

        await eventually_async(enough, 60, f"{items} items of {run}")

    async def items(self, run: str, filter: str = "") -> list[pb.OutputItem]:
        request = pb.ListOutputItemsRequest(parent=run, filter=filter, page_size=1000)
        return list((await self.stub.ListOutputItems(request)).output_items)


async def calls(peers: Peers, count: int) -> None:
    """Waits until so many calls hang in inference."""

    async def hang() -> bool:
        return peers.inference.running == count

    await eventually_async(hang, 30, f"{count} calls at once")


Settings = Callable[..., EvaluationSettings]


@pytest.fixture
def settings(peers: Peers, tmp_path: Path) -> Settings:
    def make(**changes: object) -> EvaluationSettings:
        values: dict[str, object] = {
            "home": tmp_path,
            "evaluation_port": 0,
            "evaluation_metrics_port": 0,
            "ingestion_address": f"127.0.0.1:{peers.ingestion_port}",
            "inference_address": f"127.0.0.1:{peers.inference_port}",
            "evaluation_concurrency": 4,
            "evaluation_reconcile_seconds": 0.05,
            "evaluation_lease_seconds": 10,
            "drain_seconds": 0,
            "grace_seconds": 2,
        }
        return EvaluationSettings(**{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
async def room(settings: Settings) -> AsyncIterator[Room]:
    room = Room(settings())
    await room.start()
    yield room
    await room.close()


@pytest.fixture
async def other_room(settings: Settings) -> AsyncIterator[Callable[..., Room]]:
    """More rooms, with other settings, not yet started; on the same database unless told otherwise."""
    rooms: list[Room] = []

    def make(**changes: object) -> Room:
        rooms.append(Room(settings(**changes)))
        return rooms[-1]

    yield make
    for room in rooms:
        await room.close()


def temperature(value: float) -> common.SamplingParams:
    return common.SamplingParams(temperature=value)
