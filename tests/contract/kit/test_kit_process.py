"""A service as a process: wrong settings, SIGTERM, drain."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feinschliff.kit.errors import from_rpc_error
from feinschliff.v1 import ingestion_pb2, ingestion_pb2_grpc, training_pb2, training_pb2_grpc
from tests.support.certificates import Authority

ROOT = Path(__file__).parents[3]


class Service(NamedTuple):
    process: asyncio.subprocess.Process
    channel: grpc.aio.Channel
    traces: Path


async def launched(folder: Path, **environment: str) -> asyncio.subprocess.Process:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FEINSCHLIFF_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.contract.kit.small_service",
        cwd=ROOT,
        env={**clean, "FEINSCHLIFF_TRACES": str(folder), "PYTHONPATH": "services", **environment},
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.fixture
def service(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def begin(**environment: str) -> AsyncIterator[Service]:
        process = await launched(tmp_path, **environment)
        try:
            port = await _port_of(process)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Service(process, channel, tmp_path)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return begin


async def _port_of(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    async with asyncio.timeout(20):
        async for line in process.stderr:
            fields = json.loads(line)
            if fields["message"] == "listening":
                return int(fields["port"])
    raise AssertionError("the service ended before it listened")


async def status(channel: grpc.aio.Channel, name: str = "") -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


async def until(condition: Callable[[], Coroutine[Any, Any, bool]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_sigterm_with_nothing_to_do_ends_with_0_and_closes_everything(service: Callable[..., Any]) -> None:
    async with service(FEINSCHLIFF_DRAIN_SECONDS="0") as one:
        one.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(one.process.wait(), 10) == 0
        assert (one.traces / "closed").exists()
        assert (one.traces / "loop ended").exists()


async def test_sigterm_drains_then_lets_the_running_call_end(service: Callable[..., Any]) -> None:
    async with service(FEINSCHLIFF_DRAIN_SECONDS="0.5", FEINSCHLIFF_GRACE_SECONDS="10") as one:
        stub = ingestion_pb2_grpc.DatasetServiceStub(one.channel)
        running = asyncio.ensure_future(_get(stub, "projects/p/datasets/1.5"))
        await until(lambda: _exists(one.traces / "begun"))
        one.process.send_signal(signal.SIGTERM)
        await until(lambda: _is(one.channel, health_pb2.HealthCheckResponse.NOT_SERVING))
        assert await status(one.channel, "live") == health_pb2.HealthCheckResponse.SERVING
        assert (await _get(stub, "projects/p/datasets/0")).name, "while it drains it still answers"
        assert (await running).name == "projects/p/datasets/1.5"
        assert await asyncio.wait_for(one.process.wait(), 10) == 0


async def test_open_watches_do_not_hold_the_stop_up(service: Callable[..., Any]) -> None:
    async with service(FEINSCHLIFF_DRAIN_SECONDS="0", FEINSCHLIFF_GRACE_SECONDS="30") as one:
        watch = training_pb2_grpc.TrainingServiceStub(one.channel).WatchTrainingJob(
            training_pb2.WatchTrainingJobRequest(name="projects/p/trainingJobs/j")
        )
        healths = health_pb2_grpc.HealthStub(one.channel).Watch(health_pb2.HealthCheckRequest(service=""))
        await watch.read()
        await healths.read()
        one.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(one.process.wait(), 10) == 0
        with pytest.raises(grpc.RpcError) as caught:
            await watch.read()
        assert from_rpc_error(caught.value).reason == "SERVER_STOPPING"


async def test_a_second_signal_cuts_drain_and_grace_short(service: Callable[..., Any]) -> None:
    async with service(FEINSCHLIFF_DRAIN_SECONDS="60", FEINSCHLIFF_GRACE_SECONDS="60") as one:
        stub = ingestion_pb2_grpc.DatasetServiceStub(one.channel)
        running = asyncio.ensure_future(_get(stub, "projects/p/datasets/50"))
        await until(lambda: _exists(one.traces / "begun"))
        one.process.send_signal(signal.SIGTERM)
        await until(lambda: _is(one.channel, health_pb2.HealthCheckResponse.NOT_SERVING))
        one.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(one.process.wait(), 10) == 0
        with pytest.raises(grpc.RpcError):
            await running


async def test_wrong_settings_end_the_start_with_2_and_a_line_each_without_a_traceback(tmp_path: Path) -> None:
    begun = time.monotonic()
    process = await launched(
        tmp_path,
        FEINSCHLIFF_INGESTION_PORT="many",
        FEINSCHLIFF_DRAIN_SECONDS="-1",
        FEINSCHLIFF_LOG_FORMAT="xml",
    )
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    lines = errors.decode().splitlines()
    assert process.returncode == 2, lines
    assert time.monotonic() - begun < 20
    names = [line.partition(":")[0] for line in lines]
    assert sorted(names) == ["FEINSCHLIFF_DRAIN_SECONDS", "FEINSCHLIFF_INGESTION_PORT", "FEINSCHLIFF_LOG_FORMAT"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEINSCHLIFF_BIND_HOST", "0.0.0.0"),
        ("FEINSCHLIFF_FAILPOINTS", "checkpiont.before_write=kill"),
        ("FEINSCHLIFF_OTLP_ENDPOINT", "collector"),
    ],
)
async def test_what_is_unsafe_or_misspelt_stops_the_start_by_name(tmp_path: Path, name: str, value: str) -> None:
    process = await launched(tmp_path, **{name: value})
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert [line.partition(":")[0] for line in errors.decode().splitlines()] == [name]


async def test_a_certificate_that_cannot_be_read_stops_the_start_by_name(tmp_path: Path) -> None:
    files = Authority().pair(tmp_path / "tls")
    files.key.unlink()
    process = await launched(tmp_path, **files.environment())
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert errors.decode() == f"FEINSCHLIFF_TLS_KEY: cannot read {files.key}: No such file or directory\n"


async def test_wiring_that_is_refused_ends_with_1_and_one_line(tmp_path: Path) -> None:
    process = await launched(tmp_path, FEINSCHLIFF_NEWER_TABLES="true")
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert errors.decode() == "SCHEMA_AHEAD: A newer version migrated the tables.\n"


async def _get(stub: ingestion_pb2_grpc.DatasetServiceStub, name: str) -> ingestion_pb2.Dataset:
    return await stub.GetDataset(ingestion_pb2.GetDatasetRequest(name=name), timeout=60)


async def _exists(path: Path) -> bool:
    return path.exists()


async def _is(channel: grpc.aio.Channel, wanted: int) -> bool:
    return await status(channel) == wanted
