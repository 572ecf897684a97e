"""All services without torch in one process, as a pod runs them: TLS between them, one probe port for all."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feinschliff.cli.control import ROOMS
from feinschliff.kit.errors import from_rpc_error
from tests.support.certificates import Authority, TlsFiles
from tests.support.processes import RoomProcess
from tests.support.s3 import S3Server

ALL_SERVICES = (
    "feinschliff.v1.DatasetService",
    "feinschliff.v1.CompletionLogService",
    "feinschliff.v1.TrainingService",
    "feinschliff.v1.WorkerService",
    "feinschliff.v1.EvaluationService",
    "feinschliff.v1.RegistryService",
)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return Authority().pair(tmp_path / "tls")


@pytest.fixture
def ports(free_port: Callable[[], int]) -> dict[str, int]:
    return {room: free_port() for room in (*ROOMS, "probe")}


@pytest.fixture
def control(
    files: TlsFiles, ports: dict[str, int], s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> Iterator[RoomProcess]:
    """On every address of the machine, which client certificates alone make allowed; `address` is the probe's."""
    environment = {
        "FEINSCHLIFF_HOME": str(tmp_path / "home"),
        "FEINSCHLIFF_BIND_HOST": "0.0.0.0",
        "FEINSCHLIFF_GATEWAY_API_KEYS": "key",
        "FEINSCHLIFF_PROBE_PORT": str(ports["probe"]),
        **{f"FEINSCHLIFF_{room.upper()}_PORT": str(ports[room]) for room in ROOMS},
        **{f"FEINSCHLIFF_{room.upper()}_METRICS_PORT": "0" for room in ROOMS},
        **files.environment(),
        **s3_server.environment(s3_bucket),
    }
    process = RoomProcess(
        name="control",
        command=[sys.executable, "-m", "feinschliff.cli.control"],
        environment=environment,
        log_path=tmp_path / "control.log",
        address=f"127.0.0.1:{ports['probe']}",
    )
    process.start_and_wait()
    yield process
    process.close()


def ask(port: int) -> int:
    """A request that the gateway hands on to training."""
    url = f"http://127.0.0.1:{port}/v1/fine_tuning/jobs"
    request = urllib.request.Request(url, headers={"Authorization": "Bearer key"})
    with urllib.request.urlopen(request, timeout=20) as response:
        return int(response.status)


def says(address: str, credentials: grpc.ChannelCredentials) -> str:
    """The health of a port over TLS; the status code where it does not answer."""
    with grpc.secure_channel(address, credentials) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError as error:
            return from_rpc_error(error).code.name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_rooms_speak_tls_with_each_other_through_a_change_of_ca_and_the_probe_port_answers_for_all(
    control: RoomProcess, files: TlsFiles, ports: dict[str, int]
) -> None:
    assert [control.health(service) for service in (*ALL_SERVICES, "live")] == ["SERVING"] * 7
    assert ask(ports["gateway"]) == 200
    training = f"127.0.0.1:{ports['training']}"
    assert RoomProcess("training", [], {}, files.folder / "log", address=training).health() == "UNREACHABLE"
    ca, key, certificate = (path.read_bytes() for path in (files.ca, files.key, files.certificate))
    assert says(training, grpc.ssl_channel_credentials(ca)) == "UNAVAILABLE", "no certificate was shown"
    assert says(training, grpc.ssl_channel_credentials(ca, key, certificate)) == "SERVING"

    Authority().pair(files.folder)
    assert says(training, grpc.ssl_channel_credentials(ca, key, certificate)) == "UNAVAILABLE", "the CA has changed"
    assert ask(ports["gateway"]) == 200
    assert control.health() == "SERVING"
    assert control.terminate() == 0
