"""Traces: what a collector is told of a request, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feinschliff.gateway.__main__ import wire
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.kit import client, spans, tracing
from feinschliff.kit.context import current_trace, current_traceparent
from feinschliff.kit.errors import StartError, WrongState
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Room, Running, Servicer, start
from feinschliff.kit.settings import Settings
from feinschliff.v1 import ingestion_pb2, ingestion_pb2_grpc, training_pb2, training_pb2_grpc
from tests.contract.kit.rooms import DATASETS, TRAINING, Context, Open, opened
from tests.support.collector import Collector, collector

ROOT = Path(__file__).parents[3]
GET = ingestion_pb2.GetDatasetRequest(name="projects/default/datasets/d")
TRACE_ID, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE_ID}-{CALLER}-01", f"00-{TRACE_ID}-{CALLER}-00"


@pytest.fixture
def receiver() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture
def traced(receiver: Collector) -> Iterator[Callable[..., None]]:
    """Sends spans to the receiver from here on, all of them unless told otherwise."""

    def configure(**settings: Any) -> None:
        spans.configure(Settings(**{"otlp_endpoint": receiver.address, "trace_sample_ratio": 1, **settings}), "alone")

    configure()
    yield configure
    spans.close()


@pytest.fixture
async def room() -> AsyncIterator[Open]:
    async with opened() as open_room:
        yield open_room
    await client.close_channels()


class Jobs(training_pb2_grpc.TrainingServiceServicer):
    async def ListTrainingJobs(
        self, request: training_pb2.ListTrainingJobsRequest, context: Context
    ) -> training_pb2.ListTrainingJobsResponse:
        return training_pb2.ListTrainingJobsResponse()


@asynccontextmanager
async def gateway_and_training(free_port: Callable[[], int]) -> AsyncIterator[str]:
    """The gateway's URL; the training service behind it is a small one."""
    training_port, http_port = free_port(), free_port()
    add = training_pb2_grpc.add_TrainingServiceServicer_to_server
    training = Room("training", training_port, 0, [Servicer(add, Jobs(), TRAINING)], [], {}, [], Metrics("training"))
    settings = GatewaySettings(
        gateway_port=http_port,
        gateway_metrics_port=0,
        training_address=f"127.0.0.1:{training_port}",
        drain_seconds=0,
        grace_seconds=2,
    )
    running: Running = await start([training, wire(settings)], settings)
    try:
        yield f"http://127.0.0.1:{http_port}"
    finally:
        await running.stop()
        client.close_sync_channels()


def ask(url: str, **headers: str) -> None:
    request = urllib.request.Request(url, headers={"Authorization": "Bearer any", **headers})
    with urllib.request.urlopen(request, timeout=10) as response:
        response.read()


async def test_a_request_through_the_gateway_is_one_trace_with_a_span_for_each_step(
    traced: Callable[..., None], receiver: Collector, free_port: Callable[[], int]
) -> None:
    async with gateway_and_training(free_port) as url:
        await asyncio.to_thread(ask, f"{url}/v1/fine_tuning/jobs", traceparent=SAMPLED)
    spans.close()
    http = receiver.named("GET /v1/fine_tuning/jobs")
    out = receiver.named(f"{TRAINING}/ListTrainingJobs", service="feinschliff-gateway")
    served = receiver.named(f"{TRAINING}/ListTrainingJobs", service="feinschliff-training")
    assert {one.trace_id for one in (http, out, served)} == {TRACE_ID}
    assert (http.parent_id, out.parent_id, served.parent_id) == (CALLER, http.span_id, out.span_id)
    assert [(one.service, one.kind) for one in (http, out, served)] == [
        ("feinschliff-gateway", "SERVER"),
        ("feinschliff-gateway", "CLIENT"),
        ("feinschliff-training", "SERVER"),
    ]
    assert http.attributes["http.response.status_code"] == 200
    for one in (out, served):
        assert one.attributes["rpc.system"] == "grpc"
        assert (one.attributes["rpc.service"], one.attributes["rpc.method"]) == (TRAINING, "ListTrainingJobs")
        assert one.attributes["rpc.grpc.status_code"] == 0
    assert len(receiver.spans) == 3, "probes of health are no part of it"


async def get(room: Open, *, traceparent: str = "") -> None:
    metadata = (("traceparent", traceparent),) if traceparent else ()
    await ingestion_pb2_grpc.DatasetServiceStub(room.channel).GetDataset(GET, metadata=metadata)


async def test_the_caller_decides_whether_a_trace_is_kept(
    traced: Callable[..., None], receiver: Collector, room: Open
) -> None:
    traced(trace_sample_ratio=0)
    await get(room, traceparent=UNSAMPLED)
    await get(room)
    await get(room, traceparent=SAMPLED)
    spans.close()
    assert [one.trace_id for one in receiver.spans] == [TRACE_ID]


async def test_what_begins_here_is_kept_in_its_share_and_the_decision_is_passed_on(
    traced: Callable[..., None], receiver: Collector, room: Open
) -> None:
    seen = []
    traced(trace_sample_ratio=0.5)
    room.datasets.act = lambda: seen.append(current_trace())
    for _ in range(60):
        await get(room)
    spans.close()
    kept = {trace.trace_id for trace in seen if trace is not None and trace.sampled}
    assert {one.trace_id for one in receiver.spans} == kept
    assert 5 < len(kept) < 55


async def test_a_refusal_carries_its_reason_and_only_our_faults_count_as_failures(
    traced: Callable[..., None], receiver: Collector, room: Open
) -> None:
    def refuse() -> None:
        raise WrongState("NOT_NOW", "No.")

    def fail() -> None:
        raise RuntimeError("boom")

    for act in (refuse, fail):
        room.datasets.act = act
        with pytest.raises(grpc.RpcError):
            await get(room)
    spans.close()
    by_code = {one.attributes["rpc.grpc.status_code"]: one for one in receiver.spans}
    refused, failed = by_code[9], by_code[13]
    assert (refused.attributes["feinschliff.reason"], refused.failure) == ("NOT_NOW", "")
    assert failed.failure == "INTERNAL"


async def test_health_is_no_part_of_any_trace(traced: Callable[..., None], receiver: Collector, room: Open) -> None:
    await health_pb2_grpc.HealthStub(room.channel).Check(health_pb2.HealthCheckRequest())
    spans.close()
    assert receiver.spans == []


async def test_a_thread_passes_its_trace_on(traced: Callable[..., None], receiver: Collector, room: Open) -> None:
    def work() -> None:
        channel = client.sync_channel(room.address, name="ingestion")
        with spans.span("step", job="j"):
            ingestion_pb2_grpc.DatasetServiceStub(channel).GetDataset(GET)
        client.close_sync_channels()

    await asyncio.to_thread(work)
    spans.close()
    step = receiver.named("step", service="feinschliff-alone")
    out = receiver.named(f"{DATASETS}/GetDataset", service="feinschliff-alone")
    served = receiver.named(f"{DATASETS}/GetDataset", service="feinschliff-ingestion")
    assert (step.parent_id, out.parent_id, served.parent_id) == ("", step.span_id, out.span_id)
    assert step.attributes["job"] == "j"


def test_steps_lie_in_each_other_and_one_that_fails_says_why(traced: Callable[..., None], receiver: Collector) -> None:
    def work() -> None:
        with spans.span("whole", parent=tracing.from_environment(tracing.environment(SAMPLED))):
            with spans.span("first"):
                pass
            with spans.span("second"):
                assert current_traceparent().startswith(f"00-{TRACE_ID}-")
                raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        work()
    assert current_trace() is None
    spans.close()
    whole, first, second = (receiver.named(name) for name in ("whole", "first", "second"))
    assert (whole.parent_id, first.parent_id, second.parent_id) == (CALLER, whole.span_id, whole.span_id)
    assert (whole.failure, first.failure, second.failure) == ("ValueError", "", "ValueError")


def test_a_program_is_given_no_trace_where_there_is_none() -> None:
    assert tracing.environment("") == {}
    assert tracing.environment("garbage") == {}
    assert tracing.from_environment({}) is None


@pytest.mark.parametrize("trouble", ["away", "stuck"])
async def test_a_collector_that_is_away_or_stuck_holds_nothing_up(
    trouble: str, traced: Callable[..., None], receiver: Collector, room: Open, free_port: Callable[[], int]
) -> None:
    if trouble == "away":
        traced(otlp_endpoint=f"127.0.0.1:{free_port()}")
    else:
        receiver.let_go.clear()
    begun = time.monotonic()
    for _ in range(700):  # more than one batch
        await get(room)
    assert time.monotonic() - begun < 30
    begun = time.monotonic()
    await asyncio.to_thread(spans.close)
    assert time.monotonic() - begun < spans.FLUSH_SECONDS + 2


def test_an_endpoint_that_is_none_stops_the_start_by_name() -> None:
    for endpoint in ("collector", "ftp://collector:4317", "http://a b"):
        with pytest.raises(StartError, match=r"^FEINSCHLIFF_OTLP_ENDPOINT: "):
            spans.configure(Settings(otlp_endpoint=endpoint), "x")


def program(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "services"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_endpoint_without_the_packages_stops_the_start_with_what_to_install() -> None:
    done = program(
        """
        import sys
        sys.modules["opentelemetry"] = None
        from feinschliff.kit.server import run
        from feinschliff.kit.settings import Settings
        run(lambda settings: None, Settings)
        """,
        FEINSCHLIFF_OTLP_ENDPOINT="127.0.0.1:4317",
    )
    assert done.returncode == 2
    assert done.stderr.startswith("FEINSCHLIFF_OTLP_ENDPOINT: traces need what the extra `tracing` installs")


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    done = program(
        """
        import sys
        from importlib import import_module
        from feinschliff.kit import spans
        from feinschliff.kit.settings import Settings
        spans.configure(Settings(), "x")
        for room in ("ingestion", "training", "evaluation", "registry", "inference", "trainer"):
            import_module(f"feinschliff.{room}.__main__")
        print([name for name in sys.modules if name.startswith("opentelemetry")])
        import feinschliff.gateway.__main__  # its HTTP framework imports the API, which does nothing alone
        print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
        """
    )
    assert done.stdout == "[]\n[]\n", done.stderr
