"""One start and one stop for every service: listen, health, reflection, loops, drain, close."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from feinschliff.kit import client, failpoints, logs, threads
from feinschliff.kit.context import add_log_fields
from feinschliff.kit.errors import StartError
from feinschliff.kit.health import Check, Health, Readiness, look, watch_checks
from feinschliff.kit.interceptors import Chain
from feinschliff.kit.loops import keep_running
from feinschliff.kit.metrics import Exposed, Metrics
from feinschliff.kit.settings import ENV_PREFIX, Settings, read_settings

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Settings)

HEALTH = "grpc.health.v1.Health"
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", client.MESSAGE_CAP_BYTES),
    ("grpc.max_receive_message_length", client.MESSAGE_CAP_BYTES),
    ("grpc.max_metadata_size", client.METADATA_CAP_BYTES),
    ("grpc.absolute_max_metadata_size", client.METADATA_CAP_BYTES),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second owner
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class Servicer(NamedTuple):
    """One gRPC service.

    Attributes:
        add: the generated `add_...Servicer_to_server`.
        full_name: such as `package.v1.Service`.
        standing: methods that go on until their client leaves, beside those named Watch...; the server's stop ends
            them first, with UNAVAILABLE SERVER_STOPPING.
    """

    add: Callable[..., None]
    instance: object
    full_name: str
    standing: Sequence[str] = ()


class Loop(NamedTuple):
    """Work in the background that must not die: when it raises or returns, it is logged, counted and begun again."""

    name: str
    run: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Room:
    """A service as the server needs it.

    Attributes:
        port: of gRPC, or of `http` where there are no servicers; 0 takes a free one.
        checks: by name, what must answer for the room to be ready; each raises if it does not, in a thread.
        close: called in order at the end, when nothing runs any more.
        http: serves HTTP until it is cancelled; then it ends what still runs and returns.
        readiness: what the checks say, for a room that answers health itself.
    """

    name: str
    port: int
    metrics_port: int
    servicers: Sequence[Servicer]
    loops: Sequence[Loop]
    checks: Mapping[str, Callable[[], None]]
    close: Sequence[Callable[[], None]]
    metrics: Metrics
    http: Callable[[], Awaitable[None]] | None = None
    readiness: Readiness = field(default_factory=Readiness)


class Running:
    """Rooms that are open; `stop` drains and closes them."""

    def __init__(self, rooms: Sequence["OpenRoom"], settings: Settings) -> None:
        self._rooms = rooms
        self._settings = settings
        self.ports = {opened.room.name: opened.port for opened in rooms}
        self.metrics_ports = {opened.room.name: opened.metrics_port for opened in rooms}

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """NOT_SERVING, wait `drain_seconds`, refuse new calls, let running ones end within the grace, close all."""
        for opened in self._rooms:
            await opened.health.leave()
        await _wait(hurry, self._settings.drain_seconds)
        await asyncio.gather(*(opened.end_calls(self._settings.grace_seconds, hurry) for opened in self._rooms))
        for opened in self._rooms:
            await opened.close()
        await client.close_channels()


class OpenRoom:
    """One room that listens."""

    def __init__(self, room: Room, settings: Settings) -> None:
        self.room = room
        self.health = Health([servicer.full_name for servicer in room.servicers])
        self.port = room.port
        self.exposed: Exposed | None = None
        self._settings = settings
        standing = [f"/{one.full_name}/{method}" for one in room.servicers for method in one.standing]
        self._chain = Chain(room.metrics, call_timeout_seconds=settings.call_timeout_seconds, standing=standing)
        self._server: grpc.aio.Server | None = None
        self._http: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        room, settings = self.room, self._settings
        self.exposed = _expose(room, settings)
        await self.health.begin()
        if room.servicers:
            self._server = self._grpc_server()
            self.port = _bind(self._server, room, settings.bind_host)
            await self._server.start()
        checks = [Check(name, ask, settings.check_timeout_seconds) for name, ask in room.checks.items()]
        await look(room.name, checks, room.readiness, self.health, room.metrics)
        watching = watch_checks(room.name, checks, room.readiness, self.health, room.metrics, settings.check_seconds)
        self._tasks.append(asyncio.create_task(watching))
        self._tasks += [asyncio.create_task(keep_running(loop.name, loop.run, room.metrics)) for loop in room.loops]
        if room.http is not None:
            self._http = asyncio.create_task(_serve_http(room))
        log.info("listening", extra={"room": room.name, "port": self.port, "metrics_port": self.metrics_port})

    @property
    def metrics_port(self) -> int:
        return self.exposed.port if self.exposed is not None else self.room.metrics_port

    async def end_calls(self, grace_seconds: float, hurry: asyncio.Event | None) -> None:
        self._chain.end_standing()
        if self._server is not None:
            stopped = asyncio.ensure_future(self._server.stop(grace_seconds))
            hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
            await asyncio.wait({stopped, hurried}, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            if not stopped.done():
                await self._server.stop(0)
            await stopped
        if self._http is not None:
            self._http.cancel()
            await asyncio.wait({self._http}, timeout=grace_seconds)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for close in self.room.close:
            try:
                await asyncio.to_thread(close)
            except Exception:
                log.exception("an adapter did not close", extra={"room": self.room.name})
        if self.exposed is not None:
            await asyncio.to_thread(self.exposed.close)

    async def abandon(self) -> None:
        """Closes what `open` has opened so far, at once."""
        self._chain.end_standing()
        if self._server is not None:
            await self._server.stop(0)
        tasks = [*self._tasks, *([self._http] if self._http else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for close in self.room.close:
            await asyncio.to_thread(close)
        if self.exposed is not None:
            self.exposed.close()

    def _grpc_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[self._chain], options=SERVER_OPTIONS)
        for servicer in self.room.servicers:
            servicer.add(servicer.instance, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, server)
        names = [servicer.full_name for servicer in self.room.servicers]
        reflection.enable_server_reflection([*names, HEALTH, reflection.SERVICE_NAME], server)
        return server


async def start(rooms: Sequence[Room], settings: Settings) -> Running:
    """Opens all rooms; if one cannot open, closes those that did and raises StartError."""
    opened = [OpenRoom(room, settings) for room in rooms]
    try:
        for one in opened:
            await one.open()
    except BaseException:
        for one in reversed(opened):
            await one.abandon()
        raise
    return Running(opened, settings)


async def serve(rooms: Sequence[Room], settings: Settings, *, ready: Callable[[], None] | None = None) -> None:
    """Opens all rooms, tells `ready`, and runs until SIGTERM or SIGINT; a second signal cuts drain and grace short."""
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stopping.is_set() else stopping).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    running = await start(rooms, settings)
    if ready is not None:
        ready()
    await stopping.wait()
    log.info("stopping", extra={"drain_seconds": settings.drain_seconds, "grace_seconds": settings.grace_seconds})
    await running.stop(hurry)
    log.info("stopped")


def run(wire: Callable[[S], Room], settings_type: type[S]) -> NoReturn:
    """The body of a room's `__main__`: from settings to the exit: 0, or 2 for a wrong setting."""
    try:
        settings = read_settings(settings_type)
        logs.configure(settings.log_level, settings.log_format)
        failpoints.configure(settings.failpoints)
        asyncio.run(_wire_and_serve(wire, settings))
    except StartError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        sys.exit(StartError.exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    if threads.in_flight():
        os._exit(0)
    sys.exit(0)


async def _wire_and_serve(wire: Callable[[S], Room], settings: S) -> None:
    await serve([await asyncio.to_thread(wire, settings)], settings)


async def _serve_http(room: Room) -> None:
    if room.http is None:
        return
    add_log_fields(room=room.name)
    await room.http()


def _expose(room: Room, settings: Settings) -> Exposed:
    try:
        return room.metrics.serve(room.metrics_port, settings.bind_host)
    except OSError as error:
        problem = _cannot_listen(room.name, "METRICS_PORT", room.metrics_port, settings.bind_host, error)
        raise StartError([problem]) from None


def _bind(server: grpc.aio.Server, room: Room, host: str) -> int:
    try:
        port = server.add_insecure_port(f"{host}:{room.port}")
    except RuntimeError as error:
        raise StartError([_cannot_listen(room.name, "PORT", room.port, host, error)]) from None
    return port


def _cannot_listen(room: str, what: str, port: int, host: str, error: Exception) -> str:
    return f"{ENV_PREFIX}{room.upper()}_{what}: cannot listen on {host}:{port}: {error}"


async def _wait(hurry: asyncio.Event | None, seconds: float) -> None:
    try:
        await asyncio.wait_for((hurry or asyncio.Event()).wait(), seconds)
    except TimeoutError:
        return
