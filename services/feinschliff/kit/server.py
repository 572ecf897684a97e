"""One start and one stop for every service: listen, health, reflection, loops, drain, close."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from feinschliff.kit import client, failpoints, logs, spans, threads, tls
from feinschliff.kit.errors import Refusal, StartError
from feinschliff.kit.opening import OpenRoom
from feinschliff.kit.probe import Probe
from feinschliff.kit.room import Loop, Room, Servicer
from feinschliff.kit.settings import Settings, read_settings

__all__ = ["Loop", "Room", "Running", "Servicer", "run", "serve", "start"]

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Settings)


class Running:
    """Rooms that are open; `stop` drains and closes them.

    Attributes:
        ports, metrics_ports: by room, as bound.

    Raises:
        StartError: a file of TLS cannot be used.
    """

    def __init__(self, rooms: Sequence[Room], settings: Settings) -> None:
        self._settings = settings
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._probe = Probe({room.name: [one.full_name for one in room.servicers] for room in rooms})
        own_tls = tls.tls_of(settings)
        self._rooms = [OpenRoom(room, settings, own_tls, self._probe, self._fail) for room in rooms]

    @property
    def ports(self) -> dict[str, int]:
        return {opened.room.name: opened.port for opened in self._rooms}

    @property
    def metrics_ports(self) -> dict[str, int]:
        return {opened.room.name: opened.metrics_port for opened in self._rooms}

    async def open(self) -> None:
        """Opens all rooms, or none."""
        settings = self._settings
        try:
            if settings.probe_port:
                await self._probe.listen(settings.bind_host, settings.probe_port)
            for opened in self._rooms:
                await opened.listen()
            await asyncio.gather(*(opened.begin() for opened in self._rooms))
        except BaseException:
            await self._close(0, asyncio.Event())
            raise

    async def failure(self) -> str:
        """Waits until a room can no longer serve; its name."""
        return await asyncio.shield(self._failure)

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """NOT_SERVING, wait `drain_seconds`, refuse new calls, let running ones end within the grace, close all.

        Args:
            hurry: once set, drain and grace are over.
        """
        hurry = hurry or asyncio.Event()
        for opened in self._rooms:
            opened.room.readiness.leave()
            await opened.health.leave()
        await _either(hurry, self._settings.drain_seconds)
        await self._close(self._settings.grace_seconds, hurry)

    async def _close(self, grace_seconds: float, hurry: asyncio.Event) -> None:
        await asyncio.gather(*(opened.end_calls(grace_seconds, hurry) for opened in self._rooms))
        await asyncio.gather(*(opened.end_loops(grace_seconds) for opened in self._rooms))
        await threads.settle(grace_seconds, hurry)
        await asyncio.gather(*(opened.close() for opened in self._rooms))
        await client.close_channels()
        await self._probe.close()

    def _fail(self, room: str) -> None:
        if not self._failure.done():
            self._failure.set_result(room)


async def start(rooms: Sequence[Room], settings: Settings) -> Running:
    """Opens all rooms; where one cannot open, closes all and raises StartError."""
    running = Running(rooms, settings)
    await running.open()
    return running


async def serve(rooms: Sequence[Room], settings: Settings, *, ready: Callable[[], None] | None = None) -> None:
    """Opens all rooms, tells `ready`, and runs until SIGTERM or SIGINT; a second signal cuts drain and grace short.

    Raises:
        RuntimeError: a room could no longer serve; all are closed.
    """
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stopping.is_set() else stopping).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    running = await start(rooms, settings)
    if ready is not None:
        ready()
    failing = asyncio.ensure_future(running.failure())
    asked = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({failing, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    log.info("stopping", extra={"drain_seconds": settings.drain_seconds, "grace_seconds": settings.grace_seconds})
    await running.stop(hurry)
    log.info("stopped")
    if failing.done() and not stopping.is_set():
        raise RuntimeError(f"{failing.result()} could no longer serve")
    failing.cancel()


def run(wire: Callable[[S], Room | Sequence[Room]], settings_type: type[S]) -> NoReturn:
    """The body of a `__main__`: settings, logs, failpoints, wiring, serving.

    Exits with 0 after a stop, 2 for a wrong setting (a line for each on stderr), 1 where wiring is refused, such as by
    a database of a newer version.
    """
    try:
        settings = read_settings(settings_type)
        logs.configure(settings.log_level, settings.log_format)
        failpoints.configure(settings.failpoints)
        tls.configure(settings)
        spans.configure(settings, "platform")
        asyncio.run(_wire_and_serve(wire, settings))
    except StartError as error:
        print("\n".join(error.problems), file=sys.stderr)
        sys.exit(StartError.exit_code)
    except Refusal as refusal:
        print(f"{refusal.reason}: {refusal.message}", file=sys.stderr)
        sys.exit(1)
    finally:
        spans.close()
    sys.stdout.flush()
    sys.stderr.flush()
    if threads.in_flight():
        os._exit(0)  # a thread that outlived the grace must not keep the process
    sys.exit(0)


async def _wire_and_serve(wire: Callable[[S], Room | Sequence[Room]], settings: S) -> None:
    wired = await asyncio.to_thread(wire, settings)
    await serve([wired] if isinstance(wired, Room) else wired, settings)


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
