"""Wires ingestion and serves it: `python -m feinschliff.ingestion`."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from feinschliff.artifacts.connect import connect, readiness
from feinschliff.artifacts.s3 import S3Store
from feinschliff.ingestion.completion_service import CompletionLogService
from feinschliff.ingestion.completions import Completions
from feinschliff.ingestion.counting import Tokenizers
from feinschliff.ingestion.datasets import Datasets
from feinschliff.ingestion.intake import Limits
from feinschliff.ingestion.memory import bound_heaps
from feinschliff.ingestion.reservations import Reservations
from feinschliff.ingestion.service import DatasetService
from feinschliff.ingestion.settings import IngestionSettings
from feinschliff.ingestion.upkeep import Upkeep
from feinschliff.ingestion.uploads import Uploads
from feinschliff.ingestion.versions import Versions
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.db import Database
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop, Room, Servicer, run
from feinschliff.kit.watch import Wake
from feinschliff.v1 import ingestion_pb2_grpc

PART_BYTES = 5 * 1024 * 1024  # the least that S3 takes


def wire(settings: IngestionSettings) -> Room:
    """The room, its database migrated; it opens no port yet."""
    bound_heaps()
    metrics, clock, wake = Metrics("ingestion"), SystemClock(), Wake()
    database = Database(settings.database_url_for("ingestion"), "ingestion")
    database.upgrade()
    store = store_of(settings)
    reservations = Reservations(database, store, clock, wake, lease_seconds=settings.ingestion_lease_seconds)
    datasets = Datasets(database, store, clock)
    tokenizers = Tokenizers(store, settings.cache_dir, settings.ingestion_tokenizer_base, offline=settings.offline)
    uploads = Uploads(
        database,
        store,
        reservations,
        tokenizers,
        limits_of(settings),
        clock,
        metrics,
        uploads_max=settings.ingestion_uploads_max,
    )
    unfinished = timedelta(seconds=settings.ingestion_unfinished_seconds)
    upkeep = Upkeep(database, datasets, reservations, partial(store.drop_unfinished, older_than=unfinished), metrics)
    versions = Versions(database, store)
    completions = Completions(database, clock, metrics, bytes_max=settings.ingestion_completion_bytes_max)
    service = DatasetService(datasets, versions, uploads, wake, metrics, idle_seconds=settings.ingestion_idle_seconds)
    return Room(
        name="ingestion",
        port=settings.ingestion_port,
        metrics_port=settings.ingestion_metrics_port,
        servicers=[
            Servicer(ingestion_pb2_grpc.add_DatasetServiceServicer_to_server, service, "feinschliff.v1.DatasetService"),
            Servicer(
                ingestion_pb2_grpc.add_CompletionLogServiceServicer_to_server,
                CompletionLogService(completions),
                "feinschliff.v1.CompletionLogService",
            ),
        ],
        loops=[
            Loop("leases", lambda: upkeep.renew_every(settings.ingestion_lease_seconds / 4)),
            Loop("cleanup", lambda: upkeep.clean_every(settings.ingestion_cleanup_seconds)),
            Loop("retention", lambda: completions.sweep_every(settings.ingestion_retention_seconds)),
        ],
        checks={"database": database.check, "store": readiness(store)},
        close=[database.close],
        metrics=metrics,
    )


def store_of(settings: IngestionSettings) -> S3Store:
    """A store that sends small parts: an upload has three writers, each with some parts in memory."""
    return connect(settings, part_bytes=PART_BYTES)


def limits_of(settings: IngestionSettings) -> Limits:
    return Limits(
        file_bytes_max=settings.ingestion_dataset_bytes_max,
        line_bytes_max=settings.ingestion_line_bytes_max,
        rows_min=settings.ingestion_rows_min,
        rows_few=settings.ingestion_rows_few,
    )


if __name__ == "__main__":
    run(wire, IngestionSettings)
