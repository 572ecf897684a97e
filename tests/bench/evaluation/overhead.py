"""What a run of 2,000 rows costs beside sampling: a model that takes a fixed time, graders that ask nobody."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from feinschliff.evaluation.__main__ import wire
from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.kit.server import start
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc, inference_pb2, inference_pb2_grpc, ingestion_pb2, ingestion_pb2_grpc

ROWS, AT_ONCE, ANSWER_SECONDS = 2000, 32, 0.25
SHARE_MAX = 0.05
VERSION = "projects/bench/datasets/rows/versions/1"
ANSWER = "The parcel is on its way and comes tomorrow before noon."


class Ingestion(ingestion_pb2_grpc.DatasetServiceServicer):
    async def GetDatasetVersion(
        self, request: ingestion_pb2.GetDatasetVersionRequest, context: object
    ) -> ingestion_pb2.DatasetVersion:
        ready = ingestion_pb2.DatasetVersion.STATE_READY
        return ingestion_pb2.DatasetVersion(name=VERSION, state=ready, rows=ROWS)

    async def ReadRows(
        self, request: ingestion_pb2.ReadRowsRequest, context: object
    ) -> AsyncIterator[ingestion_pb2.ReadRowsResponse]:
        for k in range(request.start, ROWS):
            row = ingestion_pb2.Row(line=k + 1)
            row.data.update({"prompt": f"Where is parcel {k}?", "completion": ANSWER})
            yield ingestion_pb2.ReadRowsResponse(rows=[row])


class Inference(inference_pb2_grpc.InferenceServiceServicer):
    """Answers after a fixed time; sums how long answers ran."""

    def __init__(self) -> None:
        self.busy_seconds = 0.0

    async def Chat(self, request: inference_pb2.ChatRequest, context: object) -> inference_pb2.ChatResponse:
        began = time.monotonic()
        await asyncio.sleep(ANSWER_SECONDS)
        self.busy_seconds += time.monotonic() - began
        return inference_pb2.ChatResponse(
            identity=common.Identity(model_version="projects/bench/models/m/versions/1"),
            message=common.Message(role=common.ROLE_ASSISTANT, parts=[common.Part(text=ANSWER)]),
            usage=common.TokenUsage(prompt_tokens=10, completion_tokens=12),
        )


def measure() -> None:
    """Share of the run's wall time in which its places for calls stood idle, all of them counted."""
    began = time.process_time()
    wall_seconds, busy_seconds = asyncio.run(_measure())
    cpu_seconds = round(time.process_time() - began, 2)
    share = 1 - busy_seconds / (AT_ONCE * wall_seconds)
    about = {"bench": "evaluation.overhead", "rows": ROWS, "wall_seconds": round(wall_seconds, 2)}
    print(json.dumps({**about, "cpu_seconds": cpu_seconds, "idle_share": round(share, 4)}), flush=True)
    goal = {"goal": f"outside sampling <= {SHARE_MAX}", "value": round(share, 4), "met": share <= SHARE_MAX}
    print(json.dumps({"bench": "evaluation.overhead", **goal}), flush=True)


async def _measure() -> tuple[float, float]:
    inference, server = Inference(), grpc.aio.server()
    ingestion_pb2_grpc.add_DatasetServiceServicer_to_server(Ingestion(), server)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with tempfile.TemporaryDirectory() as folder:
        address = f"127.0.0.1:{port}"
        settings = EvaluationSettings(
            home=Path(folder),
            evaluation_port=0,
            evaluation_metrics_port=0,
            ingestion_address=address,
            inference_address=address,
        )
        running = await start([wire(settings)], settings)
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{running.ports['evaluation']}") as channel:
                run = await _run(evaluation_pb2_grpc.EvaluationServiceStub(channel))
        finally:
            await running.stop()
            await server.stop(0)
    assert run.overall.n == ROWS
    return (run.finish_time.ToNanoseconds() - run.start_time.ToNanoseconds()) / 1e9, inference.busy_seconds


async def _run(stub: evaluation_pb2_grpc.EvaluationServiceAsyncStub) -> pb.EvalRun:
    answer, right = "{{ sample.output_text }}", "{{ item.completion }}"
    exact = pb.StringCheckGrader(input=answer, reference=right, operation=pb.StringCheckGrader.OPERATION_EQ)
    near = pb.TextSimilarityGrader(
        input=answer, reference=right, evaluation_metric=pb.TextSimilarityGrader.METRIC_FUZZY_MATCH
    )
    graders = [pb.Grader(name="exact", string_check=exact), pb.Grader(name="near", text_similarity=near)]
    wanted = pb.Eval(dataset_version=VERSION, graders=graders)
    made = await stub.CreateEval(pb.CreateEvalRequest(parent="projects/bench", eval=wanted))
    run = pb.EvalRun(model="m", concurrency=AT_ONCE)
    name = (await stub.CreateEvalRun(pb.CreateEvalRunRequest(parent=made.name, eval_run=run))).name
    ended = pb.EvalRun()
    async for response in stub.WatchEvalRun(pb.WatchEvalRunRequest(name=name)):
        ended = response.eval_run
    return ended


if __name__ == "__main__":
    measure()
