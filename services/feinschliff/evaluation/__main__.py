"""Wires the evaluation service and serves it."""

from __future__ import annotations

import os
import uuid

from feinschliff.evaluation.clients import Datasets, Models, Versions
from feinschliff.evaluation.comparisons import Comparisons
from feinschliff.evaluation.deciding import Parts, build
from feinschliff.evaluation.evaluations import Evaluations
from feinschliff.evaluation.grading import Grading
from feinschliff.evaluation.measures import Measures
from feinschliff.evaluation.outside import Installation, Paces, RoomOutside
from feinschliff.evaluation.posting import Poster, Reach
from feinschliff.evaluation.reconciler import Pace, Reconciler
from feinschliff.evaluation.runs import Runs
from feinschliff.evaluation.service import EvaluationService
from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.evaluation.worker import Limits, Worker
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
    models = Models(settings.inference_address, metrics, settings.evaluation_answer_timeout_seconds)
    limits = Limits(settings.evaluation_concurrency, settings.evaluation_attempts, settings.evaluation_patience_seconds)
    pace = Pace(
        settings.evaluation_runs_at_once,
        settings.evaluation_lease_seconds,
        settings.evaluation_reconcile_seconds,
    )
    grading = _grading(settings, models, metrics, poster := Poster())
    owner = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    evaluations = Evaluations(database, clock, names.new_id)
    runs = Runs(database, evaluations, clock, wake, names.new_id)
    worker = Worker(database, datasets, models, grading, metrics, clock, limits)
    reconciler = Reconciler(database, evaluations, runs, worker, metrics, clock, wake, owner=owner, pace=pace)
    comparisons = Comparisons(database, evaluations, runs)
    versions = Versions(settings.registry_address, metrics, settings.call_timeout_seconds)
    parts = Parts(database, evaluations, runs, comparisons, datasets, models, versions, grading, metrics, clock, wake)
    built = build(parts, limits, pace, owner)
    return Room(
        name="evaluation",
        port=settings.evaluation_port,
        metrics_port=settings.evaluation_metrics_port,
        servicers=[
            Servicer(
                evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server,
                EvaluationService(evaluations, runs, comparisons, datasets, grading, clock, wake, built.deciding),
                "feinschliff.v1.EvaluationService",
            )
        ],
        loops=[Loop("reconcile", reconciler.run), *built.loops],
        checks={"database": database.check},
        close=[poster.close, database.close],
        metrics=metrics,
    )


def _grading(settings: EvaluationSettings, models: Models, metrics: Metrics, poster: Poster) -> Grading:
    """What lies outside stays unasked where the installation is offline, be it a grader's server or a judge."""
    outside = not settings.offline
    installation = Installation(
        embedding_model=settings.evaluation_embedding_model,
        judges=settings.judges,
        headers=settings.grader_headers,
        reach=Reach(private=settings.evaluation_private_endpoints, public=outside),
        judge_reach=Reach(private=True, public=outside),
        attempts=settings.evaluation_attempts,
        judge_timeout_seconds=settings.evaluation_judge_timeout_seconds,
    )
    measures = Measures(settings.inference_address, metrics, settings.evaluation_answer_timeout_seconds)
    return Grading(RoomOutside(installation, models, measures, poster, Paces()), metrics)


if __name__ == "__main__":
    run(wire, EvaluationSettings)
