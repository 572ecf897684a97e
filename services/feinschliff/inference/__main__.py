"""Wires the inference service and serves it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from feinschliff.artifacts import bases
from feinschliff.artifacts.connect import connect, readiness
from feinschliff.artifacts.store import Store
from feinschliff.inference.answers import Answers
from feinschliff.inference.completions import Completions
from feinschliff.inference.deployment_service import DeploymentService
from feinschliff.inference.deployments import Deployments
from feinschliff.inference.engines import EngineOptions
from feinschliff.inference.guards.guarding import Guards
from feinschliff.inference.guards.judges import Judges
from feinschliff.inference.loader import ArtifactLoader
from feinschliff.inference.memory import memory_of
from feinschliff.inference.models import Models
from feinschliff.inference.open_inference import OpenInference
from feinschliff.inference.pool import Pool
from feinschliff.inference.reconciler import Reconciler
from feinschliff.inference.servable import ServableModels
from feinschliff.inference.service import InferenceService
from feinschliff.inference.settings import InferenceSettings
from feinschliff.inference.texts import Texts
from feinschliff.inference.versions import RegistryVersions
from feinschliff.inference.view import View
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.db import Database
from feinschliff.kit.health import Readiness
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop, Room, Servicer, run
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake
from feinschliff.v1 import inference_pb2_grpc as stubs
from feinschliff.v1 import open_inference_pb2_grpc

_PAUSE_SECONDS = 0.02  # between two turns that follow each other at once


def wire(settings: InferenceSettings, artifacts: Store | None = None) -> Room:
    """The room; `artifacts` stands in for the store that the settings name."""
    clock, wake, metrics, view = SystemClock(), Wake(), Metrics("inference"), View()
    checks = {}
    if artifacts is None:
        artifacts = s3 = connect(settings)
        checks["store"] = readiness(s3)
    database = Database(settings.database_url_for("inference"), "inference")
    database.upgrade()
    answers = Answers(metrics)
    loader = ArtifactLoader(artifacts, engine_options(settings, answers), offline=settings.offline)
    pool = Pool(loader, metrics, clock=clock, changed=wake.notify)
    versions = RegistryVersions(
        settings.registry_address, metrics, clock=clock, alias_seconds=settings.inference_alias_seconds
    )
    reconciler = Reconciler(database, pool, versions, view, metrics, clock=clock, wake=wake)
    reconciler.read()
    ready, seconds = Readiness(), settings.inference_on_demand_wait_seconds
    models = Models(pool, view, reconciler.read, versions, wake, wait_seconds_max=seconds)
    memory, guards = memory_of(settings, metrics), Guards(Judges(models, answers), metrics)
    completions, check = Completions(models, answers, guards), base_check(artifacts, settings)
    deployments = Deployments(database, versions, check, view=view, clock=clock, wake=wake)
    replica_id = settings.inference_replica_id or os.uname().nodename

    async def reconcile() -> None:
        while True:
            turn = wake.turn
            await offload(reconciler.turn)
            await asyncio.sleep(_PAUSE_SECONDS)
            await wake.wait(turn, settings.inference_turn_seconds)

    return Room(
        name="inference",
        port=settings.inference_port,
        metrics_port=settings.inference_metrics_port,
        servicers=[
            Servicer(
                stubs.add_InferenceServiceServicer_to_server,
                InferenceService(models, answers, guards, completions, memory.recorder, clock),
                "feinschliff.v1.InferenceService",
            ),
            Servicer(
                open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
                OpenInference(models, Texts(models, answers), completions, ready),
                "inference.GRPCInferenceService",
            ),
            Servicer(
                stubs.add_DeploymentServiceServicer_to_server,
                DeploymentService(
                    deployments, ServableModels(pool, view, versions), pool, wake, replica_id=replica_id, clock=clock
                ),
                "feinschliff.v1.DeploymentService",
            ),
        ],
        loops=[Loop("reconcile", reconcile), Loop("completions", memory.delivery.run)],
        checks={"database": database.check, **checks},
        close=[memory.close, pool.close, database.close],
        metrics=metrics,
        readiness=ready,
    )


def engine_options(settings: InferenceSettings, answers: Answers) -> EngineOptions:
    return EngineOptions(
        cache_dir=settings.cache_dir,
        rows_max=settings.inference_rows_max,
        queue_max=settings.inference_queue_max,
        prefill_tokens_per_step=settings.inference_prefill_tokens_per_step,
        kv_cache_bytes_max=settings.inference_kv_cache_bytes_max,
        prefix_cache_bytes_max=settings.inference_prefix_cache_bytes_max,
        threads=settings.inference_threads,
        on_batch=answers.observe_batch,
    )


def base_check(artifacts: Store, settings: InferenceSettings) -> Callable[[str], None]:
    """Refuses a base that cannot exist before a deployment is made; what must be fetched is only looked at then."""

    def check(uri: str) -> None:
        if settings.offline or not uri.startswith(("hf:", "s3:")):
            bases.resolve(uri, artifacts, settings.cache_dir, offline=settings.offline)

    return check


if __name__ == "__main__":
    run(wire, InferenceSettings)
