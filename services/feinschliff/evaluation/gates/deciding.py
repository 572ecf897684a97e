"""What decides releases, put together: gates, verdicts, calibrations, and who works on them."""

from __future__ import annotations

from typing import NamedTuple

from feinschliff.evaluation.clients import Models, Versions
from feinschliff.evaluation.evaluations import Evaluations
from feinschliff.evaluation.gates import store as gate_store
from feinschliff.evaluation.gates.gates import Gates
from feinschliff.evaluation.gates.probes import Probes
from feinschliff.evaluation.gates.service import Deciding
from feinschliff.evaluation.gates.verdicts import Verdicts
from feinschliff.evaluation.gates.worker import GateWorker
from feinschliff.evaluation.grading.grading import Grading
from feinschliff.evaluation.grading.measures import Measures
from feinschliff.evaluation.judges import store as calibration_store
from feinschliff.evaluation.judges.asking import GradingJudge
from feinschliff.evaluation.judges.calibrations import Calibrations
from feinschliff.evaluation.judges.worker import CalibrationWorker
from feinschliff.evaluation.runs.comparisons import Comparisons
from feinschliff.evaluation.runs.runs import Runs
from feinschliff.evaluation.runs.sources import Sources
from feinschliff.evaluation.work.keeping import Keeper, Kind
from feinschliff.evaluation.work.limits import Limits, Pace
from feinschliff.evaluation.work.row_work import RowWork
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Loop
from feinschliff.kit.watch import Wake


class Parts(NamedTuple):
    """What the room has already."""

    database: Database
    evaluations: Evaluations
    runs: Runs
    comparisons: Comparisons
    sources: Sources
    models: Models
    measures: Measures
    versions: Versions
    grading: Grading
    metrics: Metrics
    clock: Clock
    wake: Wake


class Built(NamedTuple):
    deciding: Deciding
    loops: list[Loop]


def build(parts: Parts, limits: Limits, pace: Pace, owner: str) -> Built:
    database, clock, wake = parts.database, parts.clock, parts.wake
    gates = Gates(database, clock, names.new_id)
    verdicts = Verdicts(database, clock, wake, parts.metrics, names.new_id, owner)
    calibrations = Calibrations(database, clock, wake, names.new_id, owner)
    rows = RowWork(parts.sources.datasets, clock, limits)
    worker = GateWorker(
        database,
        parts.evaluations,
        parts.runs,
        parts.comparisons,
        verdicts,
        Probes(database, rows, parts.models, parts.measures, parts.grading),
        parts.sources,
        parts.versions,
        calibrations,
        wake,
    )
    calibrating = CalibrationWorker(
        calibrations, rows, lambda asked: GradingJudge.of(asked, parts.grading, rows.waiting())
    )
    kinds = [
        Kind("verdict", gate_store.VERDICTS, (gate_store.VerdictState.RUNNING.value,), worker.work, verdicts.give_up),
        Kind(
            "calibration",
            calibration_store.CALIBRATIONS,
            calibration_store.UNFINISHED,
            calibrating.work,
            calibrations.give_up,
        ),
    ]
    loops = [
        Loop(f"keep {kind.what}s", Keeper(database, kind, clock, wake, owner=owner, pace=pace).run) for kind in kinds
    ]
    return Built(Deciding(gates, verdicts, worker, calibrations, parts.sources.datasets, wake), loops)
