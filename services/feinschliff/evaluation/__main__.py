"""Wires the evaluation service and serves it."""

from __future__ import annotations

import os
import uuid

from feinschliff.evaluation.clients import CompletionLog, Datasets, Models, Versions
from feinschliff.evaluation.evaluations import Evaluations
from feinschliff.evaluation.gates.deciding import Parts, build
from feinschliff.evaluation.grading.grading import Grading
from feinschliff.evaluation.grading.measures import Measures
from feinschliff.evaluation.grading.outside import Installation, Paces, RoomOutside
from feinschliff.evaluation.grading.posting import Poster, Reach
from feinschliff.evaluation.grading.sandboxed import sandbox_of
from feinschliff.evaluation.optimization.optimizations import Optimizations
from feinschliff.evaluation.optimization.service import Optimizing
from feinschliff.evaluation.optimization.store import OPTIMIZATIONS, UNFINISHED
from feinschliff.evaluation.optimization.worker import Optimizer
from feinschliff.evaluation.prompts.book import PromptBook
from feinschliff.evaluation.reports.reports import Reports
from feinschliff.evaluation.runs.comparisons import Comparisons
from feinschliff.evaluation.runs.reconciler import Reconciler
from feinschliff.evaluation.runs.runs import Runs
from feinschliff.evaluation.runs.sources import Sources
from feinschliff.evaluation.runs.worker import Worker
from feinschliff.evaluation.service import EvaluationService
from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.evaluation.work.keeping import Keeper, Kind
from feinschliff.evaluation.work.limits import Limits, Pace
from feinschliff.kit import names
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.db import Database
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop, Room, Servicer, run
from feinschliff.kit.watch import Wake
from feinschliff.v1 import evaluation_pb2_grpc


def wire(settings: EvaluationSettings) -> Room:
    clock, wake, metrics = SystemClock(), Wake(), Metrics("evaluation")
    database = Database(settings.database_url_for("evaluation"), "evaluation")
    database.upgrade()
    datasets = Datasets(settings.ingestion_address, metrics, settings.call_timeout_seconds)
    completions = CompletionLog(settings.ingestion_address, metrics, settings.call_timeout_seconds)
    models = Models(settings.inference_address, metrics, settings.evaluation_answer_timeout_seconds)
    limits = Limits(settings.evaluation_concurrency, settings.evaluation_attempts, settings.evaluation_patience_seconds)
    pace = Pace(
        settings.evaluation_runs_at_once,
        settings.evaluation_lease_seconds,
        settings.evaluation_reconcile_seconds,
    )
    sandboxed = sandbox_of(settings, metrics)
    measures = Measures(settings.inference_address, metrics, settings.evaluation_answer_timeout_seconds)
    outside = RoomOutside(_installation(settings), models, measures, poster := Poster(), Paces(), sandboxed)
    grading = Grading(outside, metrics)
    owner = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    evaluations = Evaluations(database, clock, names.new_id)
    prompts = PromptBook(database, clock, names.new_id)
    sources = Sources(datasets, completions, prompts)
    runs = Runs(database, evaluations, clock, wake, names.new_id)
    worker = Worker(database, datasets, models, grading, metrics, clock, limits)
    reconciler = Reconciler(
        database, evaluations, runs, worker, metrics, clock, wake, owner=owner, pace=pace, prompts=prompts
    )
    comparisons = Comparisons(database, evaluations, runs)
    optimizations = Optimizations(database, evaluations, prompts, comparisons, clock, wake, names.new_id)
    optimizing = Optimizing(optimizations, evaluations, sources, wake)
    optimizer = Optimizer(database, optimizations, evaluations, runs, prompts, datasets, models, clock, wake, owner)
    kind = Kind("prompt optimization", OPTIMIZATIONS, UNFINISHED, optimizer.work, optimizer.give_up)
    keeper = Keeper(database, kind, clock, wake, owner=owner, pace=pace)
    reports = Reports(evaluations, runs, comparisons)
    versions = Versions(settings.registry_address, metrics, settings.call_timeout_seconds)
    parts = Parts(
        database, evaluations, runs, comparisons, sources, models, measures, versions, grading, metrics, clock, wake
    )
    built = build(parts, limits, pace, owner)
    door = EvaluationService(
        evaluations, runs, comparisons, prompts, optimizing, reports, grading, built.deciding, clock, wake
    )
    return Room(
        name="evaluation",
        port=settings.evaluation_port,
        metrics_port=settings.evaluation_metrics_port,
        servicers=[
            Servicer(
                evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server,
                door,
                "feinschliff.v1.EvaluationService",
            )
        ],
        loops=[Loop("reconcile", reconciler.run), Loop("optimize", keeper.run), *built.loops],
        checks={"database": database.check},
        close=[sandboxed.close, poster.close, database.close],
        metrics=metrics,
    )


def _installation(settings: EvaluationSettings) -> Installation:
    """What lies outside stays unasked where the installation is offline, be it a grader's server or a judge."""
    outside = not settings.offline
    return Installation(
        embedding_model=settings.evaluation_embedding_model,
        judges=settings.judges,
        headers=settings.grader_headers,
        reach=Reach(private=settings.evaluation_private_endpoints, public=outside),
        judge_reach=Reach(private=True, public=outside),
        attempts=settings.evaluation_attempts,
        judge_timeout_seconds=settings.evaluation_judge_timeout_seconds,
    )


if __name__ == "__main__":
    run(wire, EvaluationSettings)
