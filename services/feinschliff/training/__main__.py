"""Wires the training service and serves it."""

from __future__ import annotations

import asyncio
import os
import uuid

from feinschliff.artifacts.connect import connect, readiness
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.db import Database
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop, Room, Servicer, run
from feinschliff.kit.settings import ENV_PREFIX
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake
from feinschliff.training.acts import Plan
from feinschliff.training.attempts import Attempts
from feinschliff.training.clients import IngestionClient, RegistryClient, base_check
from feinschliff.training.jobs import Jobs
from feinschliff.training.lists import Lists
from feinschliff.training.logs import Logs
from feinschliff.training.meters import Live
from feinschliff.training.reconciler import Reconciler
from feinschliff.training.service import Offer, TrainingService, WorkerService
from feinschliff.training.settings import TrainingSettings
from feinschliff.v1 import training_pb2_grpc as grpc_stubs
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.profiles import Profiles
from feinschliff.workloads.runner import Runner
from feinschliff.workloads.spec import PYTHON

PASSED_ON = (
    "home", "training_address", "s3_endpoint", "s3_access_key", "s3_bucket", "s3_region", "s3_ca", "offline",
    "log_format", "log_level", "tls_certificate", "tls_key", "tls_ca", "otlp_endpoint", "trace_sample_ratio",
)  # fmt: skip


def wire(settings: TrainingSettings) -> Room:
    clock, wake, metrics = SystemClock(), Wake(), Metrics("training")
    database = Database(settings.database_url_for("training"), "training")
    database.upgrade()
    artifacts = connect(settings)
    registry = RegistryClient(settings.registry_address, metrics)
    profiles, live = settings.profiles(), Live(metrics)
    check_base = base_check(artifacts, offline=settings.offline, local=settings.training_runner == "process")
    jobs = Jobs(
        database,
        artifacts,
        IngestionClient(settings.ingestion_address, metrics),
        registry,
        check_base,
        profiles,
        clock=clock,
        wake=wake,
    )
    runner = runner_of(settings, profiles)
    how = plan(settings, profiles)
    reconciler = Reconciler(database, artifacts, runner, registry, how, metrics, live, clock=clock, wake=wake)

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
                TrainingService(
                    jobs,
                    Lists(database),
                    Logs(database, artifacts, runner),
                    Offer(check_base, [profiles.default, *(one for one in profiles.names if one != profiles.default)]),
                    metrics,
                    wake,
                ),
                "feinschliff.v1.TrainingService",
                standing=("StreamLogs",),
            ),
            Servicer(
                grpc_stubs.add_WorkerServiceServicer_to_server,
                WorkerService(Attempts(database, clock=clock, wake=wake), live, clock),
                "feinschliff.v1.WorkerService",
                standing=("Report",),
            ),
        ],
        loops=[Loop("reconcile", reconcile)],
        checks={"database": database.check, "store": readiness(artifacts)},
        close=[runner.close, database.close],
        metrics=metrics,
    )


def runner_of(settings: TrainingSettings, profiles: Profiles) -> Runner:
    if settings.training_runner == "process":
        return SubprocessRunner(settings.folder(settings.training_workloads))
    from feinschliff.workloads.kubernetes import KubernetesRunner

    multi_node = any(profile.nodes_max > 1 for profile in profiles.profiles)
    return KubernetesRunner.connect(settings.training_namespace, multi_node=multi_node)


def plan(settings: TrainingSettings, profiles: Profiles) -> Plan:
    """How attempts run: the trainer, the same store, and the way back to us."""
    on_cluster = settings.training_runner == "kubernetes"
    return Plan(
        owner=f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        lease_seconds=settings.training_lease_seconds,
        stall_seconds=settings.training_stall_seconds,
        stop_seconds=settings.training_stop_seconds,
        command=(PYTHON, "-m", "feinschliff.trainer"),
        env=_trainer_environment(settings),
        secret_env={"FEINSCHLIFF_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value()},
        profiles=profiles,
        log_seconds=settings.training_log_seconds if on_cluster else 0.0,
    )


def _trainer_environment(settings: TrainingSettings) -> dict[str, str]:
    """What a trainer shares with us, and every variable of its own that is set here."""
    own = {name: value for name, value in os.environ.items() if name.startswith(f"{ENV_PREFIX}TRAINER_")}
    return {**own, **settings.environment(*PASSED_ON)}


if __name__ == "__main__":
    run(wire, TrainingSettings)
