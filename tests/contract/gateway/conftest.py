"""A gateway with its services in a loop of their own, and clients of the `openai` package for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from openai import OpenAI

from feinschliff.gateway.__main__ import wire
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Room, Running, start
from tests.contract.gateway.backends import Backends

START_SECONDS = 20


class Gateway:
    """A running gateway; `client` makes clients without retries, so that calls can be counted."""

    def __init__(self, **settings: Any) -> None:
        self.backends = Backends()
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._clients = ExitStack()
        self._running: list[Running] = []
        self.metrics: Metrics

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(START_SECONDS)

    def stop(self) -> None:
        self._clients.close()
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stop_services(self) -> None:
        """The services behind the gateway go away; the gateway stays."""
        asyncio.run_coroutine_threadsafe(self._running.pop(0).stop(), self._loop).result(START_SECONDS)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._running[-1].ports['gateway']}"

    def client(self, key: str = "any", **options: Any) -> OpenAI:
        made = OpenAI(api_key=key, base_url=f"{self.url}/v1", **{"max_retries": 0, "timeout": 20, **options})
        return self._clients.enter_context(made)

    async def _start(self) -> None:
        common = {"drain_seconds": 0, "grace_seconds": 3, "check_seconds": 0.05}
        base = GatewaySettings(**common)
        services = await start([self.backends.room()], base)
        address = f"127.0.0.1:{services.ports['registry']}"
        settings = GatewaySettings(
            gateway_port=0,
            gateway_metrics_port=0,
            ingestion_address=address,
            training_address=address,
            registry_address=address,
            inference_address=address,
            **common,
            **self._settings,
        )
        room: Room = await asyncio.to_thread(wire, settings)
        self.metrics = room.metrics
        self._running = [services, await start([room], settings)]

    async def _stop(self) -> None:
        for running in reversed(self._running):
            await running.stop()


@pytest.fixture
def started() -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway with the settings given; stops it after the test."""
    gateways: list[Gateway] = []

    def begin(**settings: Any) -> Gateway:
        gateways.append(Gateway(**settings))
        gateways[-1].start()
        return gateways[-1]

    yield begin
    for gateway in gateways:
        gateway.stop()


@pytest.fixture
def gateway(started: Callable[..., Gateway]) -> Gateway:
    """A gateway as it is out of the box, without keys."""
    return started()


@pytest.fixture
def openai(gateway: Gateway) -> OpenAI:
    return gateway.client()
