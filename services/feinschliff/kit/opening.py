"""One room from listening to closed."""

import asyncio
import logging
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from feinschliff.kit import client
from feinschliff.kit.addresses import cannot_listen, with_port
from feinschliff.kit.context import add_log_fields
from feinschliff.kit.health import Check, Health, look, watch_checks
from feinschliff.kit.interceptors import Chain
from feinschliff.kit.loops import keep_running
from feinschliff.kit.metrics import Exposed
from feinschliff.kit.probe import Probe
from feinschliff.kit.room import Room
from feinschliff.kit.settings import Settings
from feinschliff.kit.tls import Tls

log = logging.getLogger(__name__)

HEALTH = "grpc.health.v1.Health"
REFUSING_SECONDS = 0.1
"""From the first call refused by us to where gRPC tells clients to leave and the port is closed."""
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", client.MESSAGE_CAP_BYTES),
    ("grpc.max_receive_message_length", client.MESSAGE_CAP_BYTES),
    ("grpc.max_metadata_size", client.METADATA_CAP_BYTES),
    ("grpc.absolute_max_metadata_size", client.METADATA_CAP_BYTES),
    ("grpc.http2.bdp_probe", 0),  # a probing window grows to many MB a stream; a fixed one bounds uploads
    ("grpc.http2.lookahead_bytes", 1024 * 1024),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second owner
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Old connections are replaced once their calls have ended: so clients find servers that came later, and renewed
    # certificates reach everyone.
    ("grpc.max_connection_age_ms", 300_000),
)


class OpenRoom:
    """A room that listens, from `listen` to `close`.

    Args:
        tls: what the gRPC port shows; None for plain text.
        probe: is told how the room is.
        failed: is told when the room's HTTP server ends by itself.
    """

    def __init__(
        self, room: Room, settings: Settings, tls: Tls | None, probe: Probe, failed: Callable[[str], None]
    ) -> None:
        self.room = room
        self.health = Health(
            [servicer.full_name for servicer in room.servicers],
            lambda is_ready: probe.show(room.name, is_ready=is_ready),
        )
        self.port = room.port
        self._settings = settings
        self._tls = tls
        self._failed = failed
        standing = [f"/{one.full_name}/{method}" for one in room.servicers for method in one.standing]
        self._chain = Chain(room.metrics, call_timeout_seconds=settings.call_timeout_seconds, standing=standing)
        self._checks = [Check(name, ask, settings.check_timeout_seconds) for name, ask in room.checks.items()]
        self._exposed: Exposed | None = None
        self._server: grpc.aio.Server | None = None
        self._http: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def metrics_port(self) -> int:
        return self.room.metrics_port if self._exposed is None else self._exposed.port

    async def listen(self) -> None:
        """Takes its ports; NOT_SERVING until `begin`.

        Raises:
            StartError: a port cannot be had.
        """
        host = self._settings.bind_host
        await self.health.begin()
        self._exposed = _expose(self.room, host)
        if self.room.servicers:
            self._server = self._grpc_server()
            self.port = self._bind(self._server, host)
            await self._server.start()

    async def begin(self) -> None:
        """Asks the checks once, shows what they say, and starts loops and HTTP."""
        room, metrics = self.room, self.room.metrics
        await look(room.name, self._checks, room.readiness, self.health, metrics)
        watching = watch_checks(
            room.name, self._checks, room.readiness, self.health, metrics, self._settings.check_seconds
        )
        self._tasks.append(asyncio.create_task(watching))
        self._tasks += [asyncio.create_task(keep_running(loop.name, loop.run, metrics)) for loop in room.loops]
        if room.http is not None:
            self._http = asyncio.create_task(self._serve_http())
        log.info("listening", extra={"room": room.name, "port": self.port, "metrics_port": self.metrics_port})

    async def end_calls(self, grace_seconds: float, hurry: asyncio.Event) -> None:
        """Ends watches at once, refuses new calls, and cuts what still runs when the grace or our patience is over.

        Where there is traffic, calls that are on their way are refused by us for a moment, with a reason and a delay;
        gRPC would answer them CANCELLED.
        """
        self._chain.stop()
        hurried = asyncio.ensure_future(hurry.wait())
        if self._server is not None:
            if self._chain.is_busy:
                await asyncio.wait({hurried}, timeout=min(REFUSING_SECONDS, grace_seconds))
            stopped = asyncio.ensure_future(self._server.stop(grace_seconds))
            await asyncio.wait({stopped, hurried}, return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                await self._server.stop(0)
            await stopped
        if self._http is not None:
            self._http.cancel()
            await asyncio.wait({self._http, hurried}, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()

    async def end_loops(self, grace_seconds: float) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)

    async def close(self) -> None:
        """Closes adapters and the metrics port; one that fails does not keep the others open."""
        for close in self.room.close:
            try:
                await asyncio.to_thread(close)
            except Exception:
                log.exception("an adapter did not close", extra={"room": self.room.name})
        if self._exposed is not None:
            await asyncio.to_thread(self._exposed.close)

    async def _serve_http(self) -> None:
        if self.room.http is None:
            return
        add_log_fields(room=self.room.name)
        try:
            await self.room.http()
        except Exception:
            log.exception("the HTTP server failed")
        self._failed(self.room.name)

    def _grpc_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[self._chain], options=SERVER_OPTIONS)
        for servicer in self.room.servicers:
            servicer.add(servicer.instance, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, server)
        names = [servicer.full_name for servicer in self.room.servicers]
        reflection.enable_server_reflection([*names, HEALTH, reflection.SERVICE_NAME], server)
        return server

    def _bind(self, server: grpc.aio.Server, host: str) -> int:
        address = with_port(host, self.room.port)
        try:
            if self._tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, self._tls.server_credentials())
        except RuntimeError as error:
            raise cannot_listen(f"{self.room.name.upper()}_PORT", host, self.room.port, error) from None


def _expose(room: Room, host: str) -> Exposed:
    try:
        return room.metrics.serve(room.metrics_port, host.strip("[]"))
    except OSError as error:
        raise cannot_listen(f"{room.name.upper()}_METRICS_PORT", host, room.metrics_port, error) from None
