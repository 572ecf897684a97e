"""Health that tells the truth: serving while every dependency answers, per service, recovering by itself."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from grpc_health.v1 import health, health_pb2

from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import in_flight

log = logging.getLogger(__name__)
LIVE = "live"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Readiness:
    """What a room's checks say now; not ready before the first round of checks, nor once the room is leaving."""

    def __init__(self) -> None:
        self._failing: Mapping[str, str] = {"start": "the checks have not run yet"}
        self._is_leaving = False

    @property
    def failing(self) -> Mapping[str, str]:
        """What fails, by the check's name, and why; empty means ready."""
        return {"stop": "the service shuts down"} if self._is_leaving else self._failing

    @failing.setter
    def failing(self, failing: Mapping[str, str]) -> None:
        self._failing = failing

    @property
    def is_ready(self) -> bool:
        return not self.failing

    def leave(self) -> None:
        """Not ready from here on, whatever the checks say."""
        self._is_leaving = True


class Health:
    """The grpc.health.v1 answers of one server: each service, "" for all, and "live" for the process.

    Args:
        told: hears, after every look, whether the room is ready.
    """

    def __init__(self, services: Sequence[str], told: Callable[[bool], Awaitable[None]]) -> None:
        self.servicer = health.aio.HealthServicer()
        self._names = ("", *services)
        self._told = told
        self._is_leaving = False

    async def begin(self) -> None:
        for name in self._names:
            await self.servicer.set(name, NOT_SERVING)
        await self.servicer.set(LIVE, SERVING)

    async def show(self, *, is_ready: bool) -> None:
        is_serving = is_ready and not self._is_leaving
        for name in self._names:
            await self.servicer.set(name, SERVING if is_serving else NOT_SERVING)
        await self._told(is_serving)

    async def leave(self) -> None:
        """NOT_SERVING for good; the process is still alive."""
        self._is_leaving = True
        await self.show(is_ready=False)


class Check:
    """One dependency, asked in a thread of its own, so that one that hangs delays neither the loop nor the others."""

    def __init__(self, name: str, ask: Callable[[], None], timeout_seconds: float) -> None:
        self.name = name
        self._ask = ask
        self._timeout_seconds = timeout_seconds
        self._pending: asyncio.Future[str] | None = None

    async def problem(self) -> str:
        """Why the dependency counts as down; empty if it answers."""
        if self._pending is None or self._pending.done():
            self._pending = _in_daemon_thread(self._ask, self.name)
        try:
            return await asyncio.wait_for(asyncio.shield(self._pending), self._timeout_seconds)
        except TimeoutError:
            return f"no answer within {self._timeout_seconds:g} s"


async def watch_checks(
    room: str,
    checks: Sequence[Check],
    readiness: Readiness,
    health_of_room: Health,
    metrics: Metrics,
    every_seconds: float,
) -> None:
    """Looks at every dependency, again and again; says a change once."""
    while True:
        await look(room, checks, readiness, health_of_room, metrics)
        await asyncio.sleep(every_seconds)


async def look(
    room: str, checks: Sequence[Check], readiness: Readiness, health_of_room: Health, metrics: Metrics
) -> None:
    problems = dict(zip([c.name for c in checks], await asyncio.gather(*(c.problem() for c in checks)), strict=True))
    before, now = readiness.failing, {name: text for name, text in problems.items() if text}
    readiness.failing = now
    for name in problems:
        metrics.gauge("feinschliff_room_check_healthy").labels(room, name).set(name not in now)
        if name in now and name not in before:
            log.warning("dependency down", extra={"check": name, "problem": now[name]})
        elif name in before and name not in now:
            log.info("dependency up", extra={"check": name})
    metrics.gauge("feinschliff_room_offloaded_in_flight").labels(room).set(in_flight())
    await health_of_room.show(is_ready=not now)


def _in_daemon_thread(ask: Callable[[], None], name: str) -> asyncio.Future[str]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def tell(problem: str) -> None:
        if not answer.done():
            answer.set_result(problem)

    def run() -> None:
        problem = ""
        try:
            ask()
        except Exception as error:  # whatever it is, the dependency does not answer, and this is how we say so
            problem = f"{type(error).__name__}: {error}"[:500]
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, problem)

    threading.Thread(target=run, name=f"check-{name}", daemon=True).start()
    return answer
