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
from feinschliff.inference.engines.vllm.options import VllmOptions, refuse_without_server
from feinschliff.inference.guards.guarding import Guards
from feinschliff.inference.guards.judges import Judges
from feinschliff.inference.life import EngineName
from feinschliff.inference.loader import ArtifactLoader
from feinschliff.inference.memory import memory_of
from feinschliff.inference.models import Models, Patience
from feinschliff.inference.observed import Observations
from feinschliff.inference.open_inference import OpenInference
from feinschliff.inference.pool import Loader, Pool
from feinschliff.inference.reconciler import Reconciler
from feinschliff.inference.replica import Replica
from feinschliff.inference.rollbacks import Rollbacks
from feinschliff.inference.servable import ServableModels
from feinschliff.inference.service import InferenceService
from feinschliff.inference.settings import InferenceSettings
from feinschliff.inference.shadows import Shadows
from feinschliff.inference.texts import Texts
from feinschliff.inference.traffic import Traffic
from feinschliff.inference.versions import RegistryVersions
from feinschliff.inference.view import View
from feinschliff.kit.clock import Clock, SystemClock
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
    pool = make_pool(settings, loader, metrics, clock, wake)
    versions = RegistryVersions(
        settings.registry_address, metrics, clock=clock, alias_seconds=settings.inference_alias_seconds
    )
    reconciler = Reconciler(database, pool, versions, view, metrics, clock=clock, wake=wake)
    reconciler.read()
    traffic = Traffic(clock, project_requests_max=settings.inference_project_requests_max)
    observations = Observations(clock)
    rollbacks = Rollbacks(database, observations, view, metrics, clock=clock, wake=wake)
    shadows = Shadows(pool, metrics, copies_max=settings.inference_shadow_max)
    models = Models(
        *(pool, view, reconciler.read, versions, wake, traffic, observations, patience_of(settings)),
        answer_tokens_default=settings.inference_answer_tokens_default,
    )
    ready = Readiness()
    memory, guards = memory_of(settings, metrics), Guards(Judges(models, answers), metrics)
    completions, check = Completions(models, answers, guards, memory.recorder), base_check(artifacts, settings)
    engines = engine_check(settings)
    deployments = Deployments(database, versions, check, engines, view=view, clock=clock, wake=wake)
    replica = Replica(settings.inference_replica_id or os.uname().nodename, clock.now(), pool, traffic)

    return Room(
        name="inference",
        port=settings.inference_port,
        metrics_port=settings.inference_metrics_port,
        servicers=[
            Servicer(
                stubs.add_InferenceServiceServicer_to_server,
                InferenceService(models, answers, guards, completions, shadows, memory.recorder, clock),
                "feinschliff.v1.InferenceService",
            ),
            Servicer(
                open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
                OpenInference(models, Texts(models, answers), completions, ready),
                "inference.GRPCInferenceService",
            ),
            Servicer(
                stubs.add_DeploymentServiceServicer_to_server,
                DeploymentService(deployments, ServableModels(pool, view, versions), replica, wake),
                "feinschliff.v1.DeploymentService",
            ),
        ],
        loops=[*loops_of(settings, reconciler, traffic, rollbacks, wake), Loop("completions", memory.delivery.run)],
        checks={"database": database.check, **checks},
        close=[memory.close, pool.close, database.close],
        metrics=metrics,
        readiness=ready,
    )


def make_pool(settings: InferenceSettings, loader: Loader, metrics: Metrics, clock: Clock, wake: Wake) -> Pool:
    bytes_max = settings.inference_adapter_bytes_max
    metrics.gauge("feinschliff_inference_adapter_limit_bytes").set(bytes_max)
    return Pool(
        loader,
        metrics,
        clock=clock,
        changed=wake.notify,
        adapter_bytes_max=bytes_max,
        idle_seconds=settings.inference_adapter_idle_seconds,
    )


def loops_of(
    settings: InferenceSettings, reconciler: Reconciler, traffic: Traffic, rollbacks: Rollbacks, wake: Wake
) -> list[Loop]:
    async def reconcile() -> None:
        while True:
            turn = wake.turn
            await offload(reconciler.turn)
            await asyncio.sleep(_PAUSE_SECONDS)
            await wake.wait(turn, settings.inference_turn_seconds)

    async def watch_traffic() -> None:
        while True:
            await offload(traffic.end_late)
            await offload(rollbacks.turn)
            await asyncio.sleep(settings.inference_turn_seconds)

    return [Loop("reconcile", reconcile), Loop("traffic", watch_traffic)]


def patience_of(settings: InferenceSettings) -> Patience:
    waiting_max = settings.inference_rows_max + settings.inference_queue_max
    return Patience(settings.inference_on_demand_wait_seconds, waiting_max)


def engine_options(settings: InferenceSettings, answers: Answers) -> EngineOptions:
    return EngineOptions(
        cache_dir=settings.cache_dir,
        rows_max=settings.inference_rows_max,
        queue_max=settings.inference_queue_max,
        prefill_tokens_per_step=settings.inference_prefill_tokens_per_step,
        kv_cache_bytes_max=settings.inference_kv_cache_bytes_max,
        prefix_cache_bytes_max=settings.inference_prefix_cache_bytes_max,
        threads=settings.inference_threads,
        lookup_tokens_max=settings.inference_lookup_tokens_max,
        on_batch=answers.observe_batch,
        on_drafts=answers.count_drafts,
        vllm=vllm_options(settings),
    )


def vllm_options(settings: InferenceSettings) -> VllmOptions:
    return VllmOptions(
        urls=[url for part in settings.inference_vllm_urls.split(",") if (url := part.strip())],
        api_key=settings.inference_vllm_api_key.get_secret_value(),
        command=settings.inference_vllm_command,
        arguments=settings.inference_vllm_arguments,
        start_seconds=settings.inference_vllm_start_seconds,
        memory_share=settings.inference_vllm_memory_share,
        lora_rank_max=settings.inference_vllm_lora_rank_max,
        adapters_max=settings.inference_vllm_adapters_max,
        folder=settings.vllm_dir,
        folder_there=settings.inference_vllm_folder_there,
    )


def engine_check(settings: InferenceSettings) -> Callable[[EngineName], None]:
    """Refuses an engine that this installation has no server for, before a deployment is made."""
    options = vllm_options(settings)

    def check(engine: EngineName) -> None:
        if engine == "vllm":
            refuse_without_server(options)

    return check


def base_check(artifacts: Store, settings: InferenceSettings) -> Callable[[str], None]:
    """Refuses a base that cannot exist before a deployment is made; what must be fetched is only looked at then."""

    def check(uri: str) -> None:
        if settings.offline or not uri.startswith(("hf:", "s3:")):
            bases.resolve(uri, artifacts, settings.cache_dir, offline=settings.offline)

    return check


if __name__ == "__main__":
    run(wire, InferenceSettings)
