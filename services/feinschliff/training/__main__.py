"""Wires the training service and serves it."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid

from feinschliff.artifacts.connect import connect, readiness
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.db import Database
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop, Room, Servicer, run
from feinschliff.kit.settings import ENV_PREFIX
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake
from feinschliff.training.attempts import Attempts
from feinschliff.training.clients import IngestionClient, RegistryClient, base_check
from feinschliff.training.jobs import Jobs
from feinschliff.training.lists import Lists
from feinschliff.training.reconciler import Plan, Reconciler
from feinschliff.training.service import TrainingService, WorkerService
from feinschliff.training.settings import TrainingSettings
from feinschliff.v1 import training_pb2_grpc as grpc_stubs
from feinschliff.workloads.process import SubprocessRunner


def wire(settings: TrainingSettings) -> Room:
    clock, wake, metrics = SystemClock(), Wake(), Metrics("training")
    database = Database(settings.database_url_for("training"), "training")
    database.upgrade()
    artifacts = connect(settings)
    registry = RegistryClient(settings.registry_address, metrics)
    cache = settings.folder(settings.training_cache)
    jobs = Jobs(
        database,
        artifacts,
        IngestionClient(settings.ingestion_address, metrics),
        registry,
        base_check(artifacts, cache / "bases", offline=settings.offline),
        clock=clock,
        wake=wake,
    )
    runner = SubprocessRunner(settings.folder(settings.training_workloads))
    reconciler = Reconciler(database, artifacts, runner, registry, plan(settings), metrics, clock=clock, wake=wake)

    async def reconcile() -> None:
        while True:
            turn = wake.turn
            await offload(reconciler.turn)
            await asyncio.sleep(0.05)
            await wake.wait(turn, settings.training_turn_seconds)

    return Room(
        name="training",
        port=settings.training_port,
        metrics_port=settings.training_metrics_port,
        servicers=[
            Servicer(
                grpc_stubs.add_TrainingServiceServicer_to_server,
                TrainingService(jobs, Lists(database), metrics, wake),
                "feinschliff.v1.TrainingService",
            ),
            Servicer(
                grpc_stubs.add_WorkerServiceServicer_to_server,
                WorkerService(Attempts(database, clock=clock, wake=wake), metrics, clock),
                "feinschliff.v1.WorkerService",
                standing=("Report",),
            ),
        ],
        loops=[Loop("reconcile", reconcile)],
        checks={"database": database.check, "store": readiness(artifacts)},
        close=[database.close],
        metrics=metrics,
    )


def plan(settings: TrainingSettings) -> Plan:
    """How attempts run: the trainer with this interpreter, the same store, and the way back to us."""
    return Plan(
        owner=f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        slots=settings.training_slots,
        lease_seconds=settings.training_lease_seconds,
        stall_seconds=settings.training_stall_seconds,
        stop_seconds=settings.training_stop_seconds,
        command=(sys.executable, "-m", "feinschliff.trainer"),
        env={
            **{name: value for name, value in os.environ.items() if name.startswith(f"{ENV_PREFIX}TRAINER_")},
            "FEINSCHLIFF_HOME": str(settings.home.absolute()),
            "FEINSCHLIFF_TRAINING_ADDRESS": settings.training_address,
            "FEINSCHLIFF_S3_ENDPOINT": settings.s3_endpoint,
            "FEINSCHLIFF_S3_ACCESS_KEY": settings.s3_access_key,
            "FEINSCHLIFF_S3_BUCKET": settings.s3_bucket,
            "FEINSCHLIFF_S3_REGION": settings.s3_region,
            "FEINSCHLIFF_OFFLINE": str(settings.offline).lower(),
            "FEINSCHLIFF_LOG_FORMAT": settings.log_format,
            "FEINSCHLIFF_LOG_LEVEL": settings.log_level,
        },
        secret_env={"FEINSCHLIFF_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value()},
    )


if __name__ == "__main__":
    run(wire, TrainingSettings)
