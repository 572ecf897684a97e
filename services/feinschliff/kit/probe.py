"""The probe port: health of every room of the process in one place, in plain text, for whoever keeps it running."""

from collections.abc import Mapping, Sequence

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from feinschliff.kit.addresses import cannot_listen, with_port
from feinschliff.kit.health import LIVE, NOT_SERVING, SERVING


class Probe:
    """Answers grpc.health.v1 and nothing else: "" while every room is ready, "live" while the loop turns, and each
    service as its room says.

    Args:
        services: full names, by room; a room without any, such as one of HTTP, counts for "" alone.
    """

    def __init__(self, services: Mapping[str, Sequence[str]]) -> None:
        self.port = 0
        self._services = services
        self._ready = dict.fromkeys(services, False)
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Takes its port.

        Raises:
            StartError: the port cannot be had.
        """
        await self._health.set(LIVE, SERVING)
        for room in self._services:
            await self.show(room, is_ready=False)
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            self.port = server.add_insecure_port(with_port(host, port))
        except RuntimeError as error:
            raise cannot_listen("PROBE_PORT", host, port, error) from None
        await server.start()
        self._server = server

    async def show(self, room: str, *, is_ready: bool) -> None:
        self._ready[room] = is_ready
        for name in self._services[room]:
            await self._health.set(name, SERVING if is_ready else NOT_SERVING)
        await self._health.set("", SERVING if all(self._ready.values()) else NOT_SERVING)

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
