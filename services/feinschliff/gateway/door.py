"""Uvicorn inside the process's own loop: its socket is bound before the start is called good, signals are the kit's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from feinschliff.gateway.app import create_app
from feinschliff.gateway.clients import connect
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.gateway.state import make_state
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import StartError
from feinschliff.kit.health import Readiness
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.settings import ENV_PREFIX

KEEP_ALIVE_SECONDS = 75
CLOSING_SECONDS = 1.0  # of the grace, for closing what was cut


class Door:
    """The HTTP API on its port, from `serve` until that is cancelled.

    Raises:
        StartError: the port is taken, or cannot be bound.
    """

    def __init__(self, settings: GatewaySettings, metrics: Metrics, clock: Clock, readiness: Readiness) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._readiness = readiness
        self._failure = ""
        self._socket = _listen(settings.http_host, settings.gateway_port)
        self.port: int = self._socket.getsockname()[1]

    async def serve(self) -> None:
        """Answers until cancelled; then takes no more, lets running answers end within the grace, and returns."""
        settings = self._settings
        clients = connect(settings, self._metrics)
        app = create_app(make_state(settings, clients, self._metrics, self._clock, self._readiness))
        server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, int(settings.grace_seconds - CLOSING_SECONDS)),
            )
        )
        serving = asyncio.ensure_future(server.serve(sockets=[self._socket]))
        try:
            await asyncio.shield(serving)
            self._failure = "the HTTP server ended by itself"
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
        except Exception as error:
            self._failure = f"the HTTP server failed: {error!r}"
            raise

    def check(self) -> None:
        """Raises RuntimeError once the server has ended without being asked to."""
        if self._failure:
            raise RuntimeError(self._failure)

    def close(self) -> None:
        self._socket.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    except OSError as error:
        raise StartError([f"{ENV_PREFIX}GATEWAY_PORT: cannot listen on {host}:{port}: {error}"]) from None
    listener.setblocking(False)
    return listener
