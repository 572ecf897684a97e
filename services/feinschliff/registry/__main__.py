"""Wires the registry service and serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from feinschliff.artifacts.commit import read_manifest
from feinschliff.artifacts.connect import connect, readiness
from feinschliff.artifacts.store import Store
from feinschliff.artifacts.uri import parse_s3
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import FieldViolation, Invalid, NotFound
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop, Room, Servicer, run
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake
from feinschliff.registry.aliases import Aliases
from feinschliff.registry.combine import Combinations
from feinschliff.registry.exports import Exports
from feinschliff.registry.lineage import Lineage
from feinschliff.registry.lists import Lists
from feinschliff.registry.models import Models
from feinschliff.registry.service import RegistryService
from feinschliff.registry.settings import RegistrySettings
from feinschliff.registry.verdicts import verdicts_of
from feinschliff.v1 import registry_pb2_grpc as grpc_stubs

COUNT_SECONDS = 15.0  # about as often as Prometheus asks
EXPORT_SECONDS = 2.0  # between two looks for exports that another copy of the room took and left


def wire(settings: RegistrySettings) -> Room:
    clock, metrics, wake = SystemClock(), Metrics("registry"), Wake()
    database = Database(settings.database_url_for("registry"), "registry")
    database.upgrade()
    artifacts = connect(settings)
    models = Models(database, committed(artifacts), metrics, clock=clock)
    exports = Exports(database, metrics, clock=clock, wake=wake)
    combinations = Combinations(exports, models, artifacts)
    service = RegistryService(
        models,
        Aliases(database, metrics, clock=clock, verdicts=verdicts_of(settings, metrics)),
        Lineage(database, metrics),
        Lists(database),
        exports,
        combinations,
        clock,
        wake,
    )

    async def count() -> None:
        while True:
            await offload(models.count)
            await asyncio.sleep(COUNT_SECONDS)

    async def combine() -> None:
        while True:
            turn = wake.turn
            await offload(combinations.turn)
            await wake.wait(turn, EXPORT_SECONDS)

    return Room(
        name="registry",
        port=settings.registry_port,
        metrics_port=settings.registry_metrics_port,
        servicers=[
            Servicer(grpc_stubs.add_RegistryServiceServicer_to_server, service, "feinschliff.v1.RegistryService")
        ],
        loops=[Loop("count", count), Loop("combine", combine)],
        checks={"database": database.check, "store": readiness(artifacts)},
        close=[database.close],
        metrics=metrics,
    )


def committed(artifacts: Store) -> Callable[[str, str], None]:
    """Refuses a version whose files are not committed or are others than it says."""

    def check(uri: str, sha256: str) -> None:
        bucket, prefix = parse_s3(uri)
        manifest = read_manifest(artifacts.in_bucket(bucket), prefix)
        if manifest is None:
            raise NotFound("ARTIFACT_NOT_FOUND", f"Nothing is committed at {uri}.", uri=uri)
        found = manifest.digest.removeprefix("sha256:")
        if found != sha256:
            message = f"The files at {uri} have the digest {found}, not {sha256!r}."
            field = FieldViolation("model_version.adapter.sha256", message, "DIGEST_MISMATCH")
            raise Invalid("DIGEST_MISMATCH", message, fields=[field], uri=uri, found=found, claimed=sha256)

    return check


if __name__ == "__main__":
    run(wire, RegistrySettings)
