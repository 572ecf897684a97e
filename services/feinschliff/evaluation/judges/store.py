"""The table of calibrations; the rows judged lie in `evaluation_measured`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Column, Integer, String, Table

from feinschliff.evaluation.judges.agreement import Measured
from feinschliff.evaluation.statistics.intervals import Interval
from feinschliff.evaluation.store import METADATA, Listed, list_rows, storable
from feinschliff.formats.report import Failure
from feinschliff.graders.spec import Spec
from feinschliff.kit.db import Json, Session, UtcDateTime, insert_ignore, select_one
from feinschliff.kit.filters import Order, time_value
from feinschliff.kit.paging import Page

CALIBRATIONS = Table(
    "evaluation_calibrations",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("parent", String(100), nullable=False, index=True),
    Column("grader", Json, nullable=False),
    Column("dataset_version", String(300), nullable=False),
    Column("label_path", String(1000), nullable=False),
    Column("answer_path", String(1000), nullable=False),
    Column("other_answer_path", String(1000), nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("measured", Json),
    Column("identity", Json),
    Column("failure", Json),
    Column("request_id", String, nullable=False),
    Column("lease_owner", String(100), nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("finished", UtcDateTime),
    Column("changes", Integer, nullable=False),
    Column("version", Integer, nullable=False),
)


class CalibrationState(Enum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


UNFINISHED = (CalibrationState.QUEUED.value, CalibrationState.RUNNING.value)
FIELDS = {"state": CALIBRATIONS.c.state, "create_time": CALIBRATIONS.c.created}
READERS: Mapping[str, Callable[[str], Any]] = {
    "state": lambda text: CalibrationState(text.removeprefix("STATE_").lower()).value,
    "create_time": time_value,
}
ORDERS = {"create_time": CALIBRATIONS.c.created}


@dataclass(frozen=True)
class Calibration:
    """How far a judge agrees with people; `measured` and `identity` (what judged) once it has SUCCEEDED."""

    name: str
    parent: str
    grader: Spec
    dataset_version: str
    label_path: str
    answer_path: str
    other_answer_path: str
    total: int
    created: datetime
    lease_until: datetime
    state: CalibrationState = CalibrationState.QUEUED
    done: int = 0
    measured: Measured | None = None
    identity: Mapping[str, str] | None = None
    failure: Failure | None = None
    request_id: str = ""
    lease_owner: str = ""
    finished: datetime | None = None
    changes: int = 1
    version: int = 1


def insert_calibration(session: Session, calibration: Calibration) -> bool:
    values = {column.name: getattr(calibration, column.name) for column in fields(calibration)}
    row = storable({**values, "state": calibration.state.value})
    return insert_ignore(session, CALIBRATIONS, [row]) == 1


def get_calibration(session: Session, name: str) -> Calibration | None:
    row = select_one(session, CALIBRATIONS, name=name)
    return None if row is None else calibration_of_row(row)


def calibration_of_row(row: Mapping[str, Any]) -> Calibration:
    failure, measured = row["failure"], row["measured"]
    return Calibration(
        **{
            **row,
            "state": CalibrationState(row["state"]),
            "measured": None if measured is None else measured_of(measured),
            "failure": None if failure is None else Failure.model_validate(failure),
        }
    )


def list_calibrations(session: Session, parent: str, where: Sequence[Any], order: Order, page: Page) -> Listed:
    conditions = [CALIBRATIONS.c.parent == parent, *where]
    return list_rows(session, CALIBRATIONS, conditions, ORDERS[order.field], CALIBRATIONS.c.name, order, page)


def measured_json(measured: Measured) -> dict[str, object]:
    values = measured._asdict()
    intervals = {name: list(value) for name, value in values.items() if isinstance(value, Interval)}
    return {**values, **intervals}


def measured_of(stored: Mapping[str, Any]) -> Measured:
    intervals = {
        name: Interval(*stored[name]) for name in ("agreement_interval", "kappa_interval") if stored[name] is not None
    }
    return Measured(**{**stored, **intervals})
