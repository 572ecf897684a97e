"""Wires the training service and serves it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from feinschliff.artifacts.connect import connect, readiness
from feinschliff.artifacts.outlines import Outline, outline
from feinschliff.artifacts.store import Store
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
from feinschliff.training.consumption import Tariff
from feinschliff.training.jobs import Jobs
from feinschliff.training.lists import Lists
from feinschliff.training.logs import Logs
from feinschliff.training.meters import Live, Meters
from feinschliff.training.plan import Planner
from feinschliff.training.reconciler import Reconciler
from feinschliff.training.service import Offer, TrainingService, WorkerService
from feinschliff.training.settings import TrainingSettings
from feinschliff.training.speeds import Speeds
from feinschliff.training.trackers import TrackerRules
from feinschliff.training.warming import warm_workers
from feinschliff.v1 import training_pb2_grpc as grpc_stubs
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.profiles import Profiles
from feinschliff.workloads.runner import Runner
from feinschliff.workloads.spec import PYTHON
from feinschliff.workloads.warm import WarmWorkers

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
    local = settings.training_runner == "process"
    check_base = base_check(artifacts, offline=settings.offline, local=local)
    ingestion = IngestionClient(settings.ingestion_address, metrics)
    outlines = outlines_of(settings, artifacts)
    planner = Planner(ingestion, outlines, Speeds(database), profiles, local=local)
    trackers = trackers_of(settings)
    jobs = Jobs(
        database,
        artifacts,
        ingestion,
        registry,
        check_base,
        profiles,
        clock=clock,
        wake=wake,
        look_into=planner.look_into,
        check_fit=planner.refuse_what_cannot_fit,
        check_trackers=trackers.check,
    )
    tariff = Tariff(profiles, settings.training_carbon_grams_per_kilowatt_hour)
    how = plan(settings, profiles)
    warm = warm_workers(settings, how, Meters(metrics))
    runner = runner_of(settings, profiles, warm)
    reconciler = Reconciler(database, artifacts, runner, registry, how, metrics, live, clock=clock, wake=wake)
    others = [one for one in profiles.names if one != profiles.default]
    offer = Offer(check_base, [profiles.default, *others], trackers.installed(profiles.profiles))
    logs = Logs(database, artifacts, runner)
    return Room(
        name="training",
        port=settings.training_port,
        metrics_port=settings.training_metrics_port,
        servicers=doors(
            TrainingService(jobs, planner, Lists(database), logs, offer, metrics, wake),
            WorkerService(Attempts(database, tariff, clock=clock, wake=wake), live, clock),
        ),
        loops=[
            Loop("reconcile", turning(reconciler, wake, settings.training_turn_seconds)),
            *([Loop("warm_workers", keeping(warm, settings.training_turn_seconds))] if warm else []),
        ],
        checks={"database": database.check, "store": readiness(artifacts)},
        close=[runner.close, database.close],
        metrics=metrics,
    )


def doors(training: TrainingService, worker: WorkerService) -> list[Servicer]:
    return [
        Servicer(
            grpc_stubs.add_TrainingServiceServicer_to_server,
            training,
            "feinschliff.v1.TrainingService",
            standing=("StreamLogs",),
        ),
        Servicer(
            grpc_stubs.add_WorkerServiceServicer_to_server,
            worker,
            "feinschliff.v1.WorkerService",
            standing=("Report",),
        ),
    ]


def turning(reconciler: Reconciler, wake: Wake, seconds: float) -> Callable[[], Awaitable[None]]:
    """Turn after turn: at once where something changed, at the latest after `seconds`."""

    async def reconcile() -> None:
        while True:
            turn = wake.turn
            await offload(reconciler.turn)
            await asyncio.sleep(0.05)
            await wake.wait(turn, seconds)

    return reconcile


def keeping(warm: WarmWorkers, seconds: float) -> Callable[[], Awaitable[None]]:
    """Looks every so often whether enough processes stand ready."""

    async def keep() -> None:
        while True:
            await offload(warm.turn)
            await asyncio.sleep(seconds)

    return keep


def outlines_of(settings: TrainingSettings, artifacts: Store) -> Callable[[str], Outline | None]:
    """What is known here of a base without its weights; what had to be fetched for it lies beside the bases."""
    folder, local = settings.home.absolute() / "cache" / "bases", settings.training_runner == "process"
    return lambda uri: outline(uri, artifacts, folder, offline=settings.offline, local=local)


def trackers_of(settings: TrainingSettings) -> TrackerRules:
    """What trainers have for trackers: on this machine what we have ourselves, on a cluster what its profiles say."""
    if settings.training_runner != "process":
        return TrackerRules(offline=settings.offline)
    folder = Path(os.environ.get(f"{ENV_PREFIX}TRAINER_SECRETS") or "{home}/secrets")
    return TrackerRules(settings.folder(folder), importlib.util.find_spec("wandb") is not None, settings.offline)


def runner_of(settings: TrainingSettings, profiles: Profiles, warm: WarmWorkers | None) -> Runner:
    if settings.training_runner == "process":
        return SubprocessRunner(settings.folder(settings.training_workloads), warm=warm)
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
        carbon_grams_per_kilowatt_hour=settings.training_carbon_grams_per_kilowatt_hour,
    )


def _trainer_environment(settings: TrainingSettings) -> dict[str, str]:
    """What a trainer shares with us, and every variable of its own that is set here."""
    own = {name: value for name, value in os.environ.items() if name.startswith(f"{ENV_PREFIX}TRAINER_")}
    return {**own, **settings.environment(*PASSED_ON)}


if __name__ == "__main__":
    run(wire, TrainingSettings)
