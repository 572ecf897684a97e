"""The gateway as a process: it starts by name or not at all, and stops without cutting answers off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from feinschliff.gateway.__main__ import wire
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import read_settings
from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.tuned import BASE
from tests.support.ports import free_port
from tests.support.waiting import eventually

KEY = {"authorization": "Bearer any"}
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def process() -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(**settings: object) -> subprocess.Popen[str]:
        environment = os.environ | {f"FEINSCHLIFF_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "feinschliff.gateway"]
        running.append(subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE))
        return running[-1]

    yield begin
    for one in running:
        one.kill()
        one.communicate()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"gateway_bind_host": "0.0.0.0"}, "FEINSCHLIFF_GATEWAY_API_KEYS"),
        ({"bind_host": "0.0.0.0", "insecure_bind": "true"}, "FEINSCHLIFF_GATEWAY_API_KEYS"),
        ({"gateway_api_keys": "secret-one=UPPER CASE"}, "FEINSCHLIFF_GATEWAY_API_KEYS"),
        ({"gateway_api_keys": "twice,twice"}, "FEINSCHLIFF_GATEWAY_API_KEYS"),
        ({"gateway_base_models": "noequals"}, "FEINSCHLIFF_GATEWAY_BASE_MODELS"),
        ({"gateway_base_models": "a:b=pypi:x"}, "FEINSCHLIFF_GATEWAY_BASE_MODELS"),
        ({"gateway_port": "99999"}, "FEINSCHLIFF_GATEWAY_PORT"),
    ],
)
def test_a_wrong_setting_stops_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], names: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"FEINSCHLIFF_{name.upper()}", value)
    with pytest.raises(StartError) as caught:
        read_settings(GatewaySettings)
    assert names in str(caught.value)
    assert "secret-one" not in str(caught.value)


def test_a_start_that_is_refused_exits_with_2_and_one_line(process: Start) -> None:
    started = process(gateway_bind_host="0.0.0.0")
    _, said = started.communicate(timeout=30)
    assert (started.returncode, len(said.splitlines())) == (2, 1)


def test_a_port_in_use_stops_the_start_by_name() -> None:
    settings = GatewaySettings(gateway_port=0)
    room = wire(settings)
    try:
        with pytest.raises(StartError, match="FEINSCHLIFF_GATEWAY_PORT: cannot listen"):
            wire(GatewaySettings(gateway_port=room.port))
    finally:
        for close in room.close:
            close()


def test_it_starts_without_its_services_says_so_and_exits_clean_on_sigterm(process: Start) -> None:
    port, metrics_port = free_port(), free_port()
    started = process(
        gateway_port=port,
        gateway_metrics_port=metrics_port,
        drain_seconds=0.1,
        grace_seconds=2,
        check_seconds=0.1,
        **{
            f"{name}_address": "127.0.0.1:9"
            for name in ("ingestion", "training", "registry", "inference", "evaluation")
        },
    )

    def answer() -> httpx2.Response | None:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=5)
        except httpx2.TransportError:
            return None

    ready = eventually(answer, timeout_seconds=30, what="the HTTP port")
    assert ready is not None
    assert ready.status_code == 503
    assert "no service answers" in ready.json()["failing"]["services"]
    assert httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    assert "process_resident_memory_bytes" in httpx2.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=30)
    assert started.returncode == 0, said
    assert "Traceback" not in said


def test_readiness_comes_and_goes_with_the_services(started: Callable[..., Gateway]) -> None:
    gateway = started()

    def status() -> int:
        return httpx2.get(f"{gateway.url}/readyz").status_code

    eventually(lambda: status() == 200, what="ready")
    gateway.services.stop()
    eventually(lambda: status() == 503, what="not ready")


def test_an_answer_that_runs_ends_before_the_gateway_does(started: Callable[..., Gateway]) -> None:
    gateway = started()
    gateway.backends.inference.serve()
    body = {"model": BASE, "stream": True, "messages": [{"role": "user", "content": "hang later"}]}
    with httpx2.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, headers=KEY, timeout=20) as stream:
        pieces = stream.iter_lines()
        assert next(pieces).startswith("data: ")
        stopping = threading.Thread(target=gateway.door.stop)
        stopping.start()
        eventually(lambda: _refuses(gateway.url), what="the port's end")
        assert stopping.is_alive()
        gateway.backends.inference.let_go()
        rest = [line for line in pieces if line]
    assert rest[-1] == "data: [DONE]"
    stopping.join(20)
    assert not stopping.is_alive()


def test_an_answer_that_never_ends_is_cut_after_the_grace(started: Callable[..., Gateway]) -> None:
    gateway = started()
    gateway.backends.inference.serve()
    body: dict[str, Any] = {"model": BASE, "messages": [{"role": "user", "content": "hang"}]}
    asked: list[object] = []

    def ask() -> None:
        try:
            asked.append(httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, headers=KEY, timeout=20))
        except httpx2.TransportError as error:
            asked.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert gateway.backends.inference.begun.wait(10)
    gateway.door.stop()
    assert gateway.backends.inference.cancelled.wait(10)
    asking.join(20)
    assert len(asked) == 1


def _refuses(url: str) -> bool:
    try:
        httpx2.get(f"{url}/healthz", timeout=2)
    except httpx2.TransportError:
        return True
    return False
