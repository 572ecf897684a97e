"""What a run costs beside sampling on a model that is really served: the run, and a bare client with such calls."""

from __future__ import annotations

import asyncio
import statistics
import time
import urllib.request
from collections.abc import Iterator

import grpc

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import inference_pb2, inference_pb2_grpc
from tests.bench.evaluation.served import BASE, goal, measured, push, say
from tests.support.platform import Platform

TOKENS = 8
SHARE_MAX = 0.05
BENCH = "evaluation.sampling"
_SUM = "feinschliff_evaluation_sampling_seconds_sum"


def measure(platform: Platform, *, rows: int, at_once: int, rounds: int) -> None:
    """The run's share of wall time that the bare client did not need, and in which its places for calls stood idle."""
    runs, bare, idle = [], [], []
    asyncio.run(_bare(platform, iter(["Hello."] * 2 * at_once), at_once))  # whatever is only done once
    for turn in range(rounds):
        # Other words each time, so that nothing is known already; as long, so that it is the same work.
        questions = [[f"Where is parcel {10000 * (2 * turn + k) + row:06}?" for row in range(rows)] for k in range(2)]
        before = _sampling_seconds(platform)
        done = measured(
            platform, _eval(push(platform, "parcels", [(one, "In box 3.") for one in questions[0]])), run(at_once)
        )
        places_seconds = at_once * done.seconds
        idle.append(1 - (_sampling_seconds(platform) - before) / places_seconds)
        assert done.run.overall.n == rows
        runs.append(done.seconds)
        bare.append(asyncio.run(_bare(platform, iter(questions[1]), at_once)))
        share = 1 - bare[-1] / runs[-1]
        say(
            bench=BENCH,
            rows=rows,
            at_once=at_once,
            run_seconds=round(runs[-1], 2),
            bare_seconds=round(bare[-1], 2),
            share=round(share, 4),
            idle_share=round(idle[-1], 4),
        )
    share = 1 - statistics.median(bare) / statistics.median(runs)
    goal(BENCH, f"outside sampling, beside a bare client <= {SHARE_MAX}", share, share <= SHARE_MAX)
    goal(BENCH, f"places stand idle <= {SHARE_MAX}", statistics.median(idle), statistics.median(idle) <= SHARE_MAX)


def run(at_once: int) -> pb.EvalRun:
    return pb.EvalRun(model=BASE, concurrency=at_once)


def _eval(version: str) -> pb.Eval:
    answer, right = "{{ sample.output_text }}", "{{ item.completion }}"
    exact = pb.StringCheckGrader(input=answer, reference=right, operation=pb.StringCheckGrader.OPERATION_EQ)
    fuzzy = pb.TextSimilarityGrader.METRIC_FUZZY_MATCH
    near = pb.TextSimilarityGrader(input=answer, reference=right, evaluation_metric=fuzzy)
    graders = [pb.Grader(name="exact", string_check=exact), pb.Grader(name="near", text_similarity=near)]
    return pb.Eval(dataset_version=version, graders=graders, sampling=_sampling())


def _sampling() -> common.SamplingParams:
    return common.SamplingParams(temperature=0, max_tokens=TOKENS)


async def _bare(platform: Platform, left: Iterator[str], at_once: int) -> float:
    """Seconds of the same calls by as many callers, who do nothing with the answers."""
    async with grpc.aio.insecure_channel(platform.rooms["inference"].address) as channel:
        stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def ask() -> None:
            for question in left:
                turn = common.Message(role=common.ROLE_USER, parts=[common.Part(text=question)])
                await stub.Chat(
                    inference_pb2.ChatRequest(model=BASE, messages=[turn], sampling=_sampling(), store=False)
                )

        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(at_once)))
        return time.perf_counter() - began


def _sampling_seconds(platform: Platform) -> float:
    """How long answers have run so far, all of them."""
    url = f"http://127.0.0.1:{platform.metrics_ports['evaluation']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(_SUM))
