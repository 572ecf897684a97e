"""A gateway and the services behind it, each in a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

from openai import OpenAI

from feinschliff.gateway.__main__ import wire
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Room, Running, start
from tests.contract.gateway.backends import Backends

T = TypeVar("T")
START_SECONDS = 20
QUICK: dict[str, Any] = {"drain_seconds": 0, "grace_seconds": 3, "check_seconds": 0.05}


class InThread:
    """A room that runs in a loop of its own, as in a process of its own."""

    def __init__(self, make: Callable[[], Room], settings: GatewaySettings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.room = make()
        self._running: Running = self._do(start([self.room], settings))
        self.port = self._running.ports[self.room.name]

    def tasks(self) -> int:
        """Tasks that are not done."""

        async def count() -> int:
            return len(asyncio.all_tasks())

        return self._do(count())

    def stop(self) -> None:
        if self._loop.is_closed():
            return
        self._do(self._running.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS)


class Gateway:
    """A running gateway; `client` makes clients without retries, so that calls can be counted."""

    def __init__(self, **settings: Any) -> None:
        self.backends = Backends()
        self._clients = ExitStack()
        self.services = InThread(self.backends.room, GatewaySettings(**QUICK))
        address = f"127.0.0.1:{self.services.port}"
        addresses = {
            f"{name}_address": address for name in ("ingestion", "training", "registry", "inference", "evaluation")
        }
        ports = {"gateway_port": 0, "gateway_metrics_port": 0}
        chosen = GatewaySettings(**QUICK | ports | addresses | settings)
        self.door = InThread(lambda: wire(chosen), chosen)
        self.metrics: Metrics = self.door.room.metrics
        self.url = f"http://127.0.0.1:{self.door.port}"

    def reset(self) -> None:
        """Between two tests: the services forget everything, clients are closed."""
        self._clients.close()
        self.backends.reset()

    def stop(self) -> None:
        self._clients.close()
        self.door.stop()
        self.services.stop()

    def client(self, key: str = "any", **options: Any) -> OpenAI:
        made = OpenAI(api_key=key, base_url=f"{self.url}/v1", **{"max_retries": 0, "timeout": 20, **options})
        return self._clients.enter_context(made)
