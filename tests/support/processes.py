"""Rooms as real processes: started, waited for, killed, restarted, their logs at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import forked
from tests.support.waiting import eventually

START_SECONDS_MAX = 120.0
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


@dataclass
class Process:
    """A program of ours on loopback.

    Args:
        command: program and arguments.
        environment: besides PATH and the like, all that it gets.
        log_path: its output; every start appends.
        module: what the command runs, where its imports need not be done at every start; see `forked`.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    module: str = ""
    running: subprocess.Popen[bytes] | forked.Forked | None = field(default=None, init=False)

    def start(self) -> None:
        assert self.running is None or self.running.poll() is not None, f"{self.name} runs already"
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        environment = {**inherited, "OMP_NUM_THREADS": "2", **self.environment}
        with self.log_path.open("ab") as log:
            if self.module:
                output = log.fileno()
                self.running = forked.start(self.module, environment=environment, output=output, errors=output)
                return
            self.running = subprocess.Popen(
                self.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.running is not None
        return self.running.pid

    def logs(self) -> str:
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def check_alive(self) -> None:
        """Fails the test at once, with the log's end, when the process is gone."""
        assert self.running is not None, f"{self.name} was never started"
        code = self.running.poll()
        assert code is None, f"{self.name} ended with {code}:\n{self.logs()[-4000:]}"

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.running is not None
        self.running.kill()
        self.running.wait()

    def terminate(self, timeout_seconds: float = 60.0) -> int:
        """SIGTERM; its exit code. Killed, and the test fails, when it does not end in time."""
        assert self.running is not None
        self.running.send_signal(signal.SIGTERM)
        try:
            return self.running.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} ignored SIGTERM:\n{self.logs()[-4000:]}") from None

    def close(self) -> None:
        """For fixtures: end it however it is."""
        if self.running is None or self.running.poll() is not None:
            return
        self.running.terminate()
        try:
            self.running.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


@dataclass
class RoomProcess(Process):
    """`python -m feinschliff.<room>` with a gRPC door at `address`."""

    address: str = ""

    def start_and_wait(self, timeout_seconds: float = START_SECONDS_MAX) -> None:
        self.start()
        self.wait_serving(timeout_seconds)

    def restart(self) -> None:
        """After a kill: the same environment, the same port."""
        self.start_and_wait()

    def health(self, service: str = "") -> str:
        """SERVING, NOT_SERVING, SERVICE_UNKNOWN, or UNREACHABLE while nobody answers."""
        with grpc.insecure_channel(self.address) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=service), timeout=2
                )
            except grpc.RpcError:
                return "UNREACHABLE"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def wait_serving(self, timeout_seconds: float = START_SECONDS_MAX) -> None:
        def serving() -> bool:
            self.check_alive()
            return self.health() == "SERVING"

        eventually(serving, timeout_seconds, f"{self.name} SERVING")

    def wait_not_serving(self, timeout_seconds: float = 60.0) -> None:
        eventually(lambda: self.health() == "NOT_SERVING", timeout_seconds, f"{self.name} NOT_SERVING")


def room_process(
    room: str, port: int, environment: Mapping[str, str], folder: Path, *, is_forked: bool = False
) -> RoomProcess:
    """A room, not yet started; its log is `<folder>/<room>.log`."""
    return RoomProcess(
        name=room,
        command=[sys.executable, "-m", f"feinschliff.{room}"],
        environment=environment,
        log_path=folder / f"{room}.log",
        module=f"feinschliff.{room}" if is_forked else "",
        address=f"127.0.0.1:{port}",
    )
