"""Random moments: kill -9 of evaluation, of inference, or of both while a run works; its items are those of a calm run.

`FEINSCHLIFF_CHAOS_SEED` repeats a run, `FEINSCHLIFF_CHAOS_MOMENTS` sets how many runs are disturbed.
"""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import inference_pb2
from tests.support.platform import Platform
from tests.support.s3 import S3Server
from tests.support.waiting import eventually

SEED = int(os.environ.get("FEINSCHLIFF_CHAOS_SEED", time.time_ns() % 2**31))
MOMENTS = int(os.environ.get("FEINSCHLIFF_CHAOS_MOMENTS", "6"))
PARENT = "projects/default"
ROWS, TOKENS, AT_ONCE, KILLS_MAX = 80, 48, 4, 3
LOOK_SECONDS = 0.2
"""Between two looks at a run, whose intervals cost time that the run itself needs."""
VICTIMS = (("evaluation",), ("inference",), ("evaluation", "inference"))
FINAL = (pb.EvalRun.STATE_COMPLETED, pb.EvalRun.STATE_FAILED, pb.EvalRun.STATE_CANCELLED)
LENGTH = "def grade(sample, item):\n    return float(len(sample['output_text']) % 2)\n"
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


class Measured(NamedTuple):
    """What a run found, without times: of each item its place, row, answer, tokens, end and grades; the results."""

    items: list[tuple[object, ...]]
    results: list[bytes]


class Ground:
    """A platform that serves the tiny model, with an eval over rows of it."""

    def __init__(self, platform: Platform, base: str) -> None:
        self.platform, self.base = platform, base
        wanted = inference_pb2.Deployment(base_model=base)
        request = inference_pb2.CreateDeploymentRequest(parent=PARENT, deployment_id="tiny", deployment=wanted)
        self._deployment = platform.deployments.CreateDeployment(request).name
        eventually(self._is_ready, 120, "the deployment")
        turns = [
            [{"role": "user", "content": f"Where is parcel {k}?"}, {"role": "assistant", "content": f"In box {k % 7}."}]
            for k in range(ROWS)
        ]
        content = "".join(json.dumps({"messages": turn}) + "\n" for turn in turns).encode()
        version = platform.push("parcels", content, test_fraction=1).name
        eval_ = pb.Eval(
            dataset_version=version,
            graders=_graders(),
            sampling=common.SamplingParams(temperature=0, max_tokens=TOKENS, frequency_penalty=2),
        )
        self._eval = platform.evaluation.CreateEval(pb.CreateEvalRequest(parent=PARENT, eval=eval_)).name

    def begin(self) -> str:
        run = pb.EvalRun(model=self.base, concurrency=AT_ONCE)
        return self.platform.evaluation.CreateEvalRun(pb.CreateEvalRunRequest(parent=self._eval, eval_run=run)).name

    def seen(self, run: str) -> pb.EvalRun | None:
        """The run, or None while nobody answers."""
        time.sleep(LOOK_SECONDS)
        try:
            return self.platform.evaluation.GetEvalRun(pb.GetEvalRunRequest(name=run), timeout=10)
        except grpc.RpcError as error:
            if error.code() not in AWAY:
                raise
            return None

    def reaches(self, run: str, done: int) -> bool:
        """Waits until so many items are stored; False where the run was over before."""

        def look() -> pb.EvalRun | None:
            seen = self.seen(run)
            return seen if seen is not None and (seen.progress.done >= done or seen.state in FINAL) else None

        seen = eventually(look, 120, f"{done} items of {run}")
        return seen is not None and seen.state not in FINAL

    def kill(self, victims: tuple[str, ...], apart_seconds: float) -> None:
        """All at once; they come back one after another."""
        for name in victims:
            self.platform.rooms[name].kill()
        time.sleep(apart_seconds)
        for name in victims:
            self.platform.rooms[name].start()
            time.sleep(apart_seconds)
        for name in victims:
            self.platform.rooms[name].wait_serving()

    def measured(self, run: str) -> Measured:
        """Waits for the end of the run."""

        def over() -> pb.EvalRun | None:
            seen = self.seen(run)
            return seen if seen is not None and seen.state in FINAL else None

        ended = eventually(over, 300, f"the end of {run}")
        assert ended is not None
        assert ended.state == pb.EvalRun.STATE_COMPLETED, ended.failure
        assert (ended.overall.n, ended.overall.errored, ended.progress.done) == (ROWS, 0, ROWS)
        request = pb.ListOutputItemsRequest(parent=run, page_size=1000)
        items = self.platform.evaluation.ListOutputItems(request).output_items
        told = [
            (
                item.name.rsplit("/", 1)[1],
                item.line,
                item.sample,
                item.finish_reason,
                item.usage.completion_tokens,
                item.passed,
                *((grade.grader, grade.value, grade.passed) for grade in item.grades),
            )
            for item in items
        ]
        return Measured(told, [one.SerializeToString(deterministic=True) for one in (*ended.results, ended.overall)])

    def _is_ready(self) -> bool:
        request = inference_pb2.GetDeploymentRequest(name=self._deployment)
        seen = self.platform.deployments.GetDeployment(request)
        assert seen.state != inference_pb2.Deployment.STATE_FAILED, seen.failure
        return seen.state == inference_pb2.Deployment.STATE_READY


def _graders() -> list[pb.Grader]:
    answer, right = "{{ sample.output_text }}", "{{ item.completion }}"
    exact = pb.StringCheckGrader(input=answer, reference=right, operation=pb.StringCheckGrader.OPERATION_EQ)
    fuzzy = pb.TextSimilarityGrader.METRIC_FUZZY_MATCH
    near = pb.TextSimilarityGrader(input=answer, reference=right, evaluation_metric=fuzzy)
    return [
        pb.Grader(name="exact", string_check=exact),
        pb.Grader(name="near", text_similarity=near),
        pb.Grader(name="length", python=pb.PythonGrader(source=LENGTH)),
    ]


@pytest.fixture(scope="module")
def ground(s3_server: S3Server, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    bucket = f"chaos-{uuid.uuid4().hex[:12]}"
    s3_server.store(bucket)
    settings = {"FEINSCHLIFF_EVALUATION_LEASE_SECONDS": "2", "FEINSCHLIFF_EVALUATION_RECONCILE_SECONDS": "0.2"}
    platform = Platform(tmp_path_factory.mktemp("platform"), s3_server, bucket, settings)
    try:
        platform.start()
        yield Ground(platform, f"file:{tiny_model}")
    finally:
        platform.stop()
        s3_server.drop_bucket(bucket)


@pytest.fixture(scope="module")
def calm(ground: Ground) -> Measured:
    measured = ground.measured(ground.begin())
    assert [position for position, *_ in measured.items] == [str(k + 1) for k in range(ROWS)]
    assert len({answer for _, _, answer, *_ in measured.items}) > ROWS / 4, "answers tell rows apart"
    assert ground.measured(ground.begin()) == measured, "an undisturbed run repeats itself"
    return measured


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_disturbed_run_finds_what_a_calm_one_found(moment: int, ground: Ground, calm: Measured) -> None:
    print(f"FEINSCHLIFF_CHAOS_SEED={SEED} moment {moment}")
    dice = random.Random(f"{SEED}/{moment}")
    run, kills = ground.begin(), 0
    for done in sorted(dice.sample(range(ROWS * 3 // 4), dice.randrange(1, KILLS_MAX + 1))):
        victims = VICTIMS[(moment + kills) % len(VICTIMS)]
        if not ground.reaches(run, done):
            break
        ground.kill(victims, dice.uniform(0, 1))
        kills += 1
    assert kills > 0, "the run was over before anything was killed"
    assert ground.measured(run) == calm
