"""Starts the gateway: `python -m feinschliff.gateway`."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feinschliff.gateway.door import Door
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.kit import client
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.health import LIVE, Readiness
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Room, run

ASK_SECONDS = 1.0


def wire(settings: GatewaySettings) -> Room:
    """The gateway as the server needs it; its port is bound by now."""
    metrics, readiness = Metrics("gateway"), Readiness()
    door = Door(settings, metrics, SystemClock(), readiness)
    return Room(
        name="gateway",
        port=door.port,
        metrics_port=settings.gateway_metrics_port,
        servicers=(),
        loops=(),
        checks={"http": door.check, "services": _any_service(settings)},
        close=(door.close,),
        metrics=metrics,
        http=door.serve,
        readiness=readiness,
    )


def _any_service(settings: GatewaySettings) -> Callable[[], None]:
    """Raises while no service answers. One that is down is no reason to take the others from their callers: what needs
    it is answered with 503, the rest goes on."""
    addresses = {
        "ingestion": settings.ingestion_address,
        "training": settings.training_address,
        "registry": settings.registry_address,
        "inference": settings.inference_address,
        "evaluation": settings.evaluation_address,
    }

    def ask() -> None:
        problems = []
        for name, address in addresses.items():
            health = health_pb2_grpc.HealthStub(client.sync_channel(address, name=name))
            try:
                health.Check(health_pb2.HealthCheckRequest(service=LIVE), timeout=ASK_SECONDS)
            except grpc.RpcError as error:
                problems.append(f"{name} at {address}: {error.code().name}")
            else:
                return
        raise RuntimeError("no service answers: " + "; ".join(problems))

    return ask


if __name__ == "__main__":
    run(wire, GatewaySettings)
