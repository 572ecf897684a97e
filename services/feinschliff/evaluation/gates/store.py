"""The tables of gates and their verdicts; the rows measured for them lie in `evaluation_measured`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Column, Integer, String, Table, select

from feinschliff.evaluation.gates.judging import Outcome
from feinschliff.evaluation.gates.rules import Rule
from feinschliff.evaluation.store import METADATA, Listed, list_rows, storable
from feinschliff.formats.report import Failure
from feinschliff.kit.db import Json, Session, UtcDateTime, insert_ignore, select_one, update_versioned
from feinschliff.kit.filters import Order, time_value
from feinschliff.kit.paging import Page

GATES = Table(
    "evaluation_gates",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("parent", String(100), nullable=False, index=True),
    Column("display_name", String(256), nullable=False),
    Column("rules", Json, nullable=False),
    Column("labels", Json, nullable=False),
    Column("annotations", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)

VERDICTS = Table(
    "evaluation_verdicts",
    METADATA,
    Column("name", String(300), primary_key=True),
    Column("gate", String(200), nullable=False, index=True),
    Column("project", String(100), nullable=False, index=True),
    Column("candidate", String(300), nullable=False),
    Column("baseline", String(500), nullable=False),
    Column("policy", Json, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("outcomes", Json, nullable=False),
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("failure", Json),
    Column("request_id", String, nullable=False),
    Column("lease_owner", String(100), nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("finished", UtcDateTime),
    Column("changes", Integer, nullable=False),
    Column("version", Integer, nullable=False),
)


class VerdictState(Enum):
    RUNNING = "running"
    PASSED = "passed"
    REFUSED = "refused"
    FAILED = "failed"


GATE_FIELDS = {"create_time": GATES.c.created, "labels": GATES.c.labels}
GATE_READERS = {"create_time": time_value}
GATE_ORDERS = {
    "create_time": GATES.c.created,
    "update_time": GATES.c.updated,
    "display_name": GATES.c.display_name,
}
VERDICT_FIELDS = {
    "state": VERDICTS.c.state,
    "candidate": VERDICTS.c.candidate,
    "create_time": VERDICTS.c.created,
}
VERDICT_READERS: Mapping[str, Callable[[str], Any]] = {
    "state": lambda text: VerdictState(text.removeprefix("STATE_").lower()).value,
    "create_time": time_value,
}
VERDICT_ORDERS = {"create_time": VERDICTS.c.created, "candidate": VERDICTS.c.candidate}


@dataclass(frozen=True)
class Gate:
    """What a release must show."""

    name: str
    parent: str
    display_name: str
    rules: Sequence[Rule]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    created: datetime
    updated: datetime
    version: int = 1

    def to_json(self) -> dict[str, object]:
        """As verdicts keep it."""
        return {**_gate_columns(self), "created": self.created.isoformat(), "updated": self.updated.isoformat()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Gate:
        times = {name: datetime.fromisoformat(stored[name]) for name in ("created", "updated")}
        return gate_of_row({**stored, **times})


@dataclass(frozen=True)
class VerdictRow:
    """Whether a candidate passed a gate; `done` of `total` rows are measured, over all runs and probes."""

    name: str
    gate: str
    project: str
    candidate: str
    baseline: str
    policy: Gate
    created: datetime
    lease_until: datetime
    state: VerdictState = VerdictState.RUNNING
    outcomes: Sequence[Outcome] = ()
    total: int = 0
    done: int = 0
    failure: Failure | None = None
    request_id: str = ""
    lease_owner: str = ""
    finished: datetime | None = None
    changes: int = 1
    version: int = 1


def insert_gate(session: Session, gate: Gate) -> bool:
    return insert_ignore(session, GATES, [_gate_columns(gate)]) == 1


def get_gate(session: Session, name: str) -> Gate | None:
    row = select_one(session, GATES, name=name)
    return None if row is None else gate_of_row(row)


def gate_of_row(row: Mapping[str, Any]) -> Gate:
    return Gate(**{**row, "rules": [Rule.from_json(rule) for rule in row["rules"]]})


def save_gate(session: Session, before: Gate, **changes: object) -> Gate:
    """Raises Conflict ROW_CHANGED."""
    after = replace(before, **changes, version=before.version + 1)  # type: ignore[arg-type]
    values = _gate_columns(after)
    update_versioned(session, GATES, {"name": before.name}, before.version, {name: values[name] for name in changes})
    return after


def delete_gate(session: Session, gate: Gate) -> None:
    """Raises Conflict ROW_CHANGED."""
    update_versioned(session, GATES, {"name": gate.name}, gate.version, {})
    session.execute(GATES.delete().where(GATES.c.name == gate.name))


def list_gates(session: Session, parent: str, where: Sequence[Any], order: Order, page: Page) -> Listed:
    conditions = [GATES.c.parent == parent, *where]
    return list_rows(session, GATES, conditions, GATE_ORDERS[order.field], GATES.c.name, order, page)


def gates_that_use(session: Session, parent: str, eval_: str) -> list[str]:
    rows = session.execute(select(GATES.c.name, GATES.c.rules).where(GATES.c.parent == parent)).all()
    return sorted(name for name, rules in rows if any(rule["eval"] == eval_ for rule in rules))


def insert_verdict(session: Session, verdict: VerdictRow) -> bool:
    return insert_ignore(session, VERDICTS, [_verdict_columns(verdict)]) == 1


def get_verdict(session: Session, name: str) -> VerdictRow | None:
    row = select_one(session, VERDICTS, name=name)
    return None if row is None else verdict_of_row(row)


def verdict_of_row(row: Mapping[str, Any]) -> VerdictRow:
    return VerdictRow(
        **{
            **row,
            "policy": Gate.from_json(row["policy"]),
            "state": VerdictState(row["state"]),
            "outcomes": [Outcome.from_json(outcome) for outcome in row["outcomes"]],
            "failure": None if row["failure"] is None else Failure.model_validate(row["failure"]),
        }
    )


def list_verdicts(
    session: Session, project: str, gate: str | None, where: Sequence[Any], order: Order, page: Page
) -> Listed:
    """The verdicts of one gate, or of a project where `gate` is None."""
    conditions = [VERDICTS.c.project == project, *where] + ([VERDICTS.c.gate == gate] if gate is not None else [])
    return list_rows(session, VERDICTS, conditions, VERDICT_ORDERS[order.field], VERDICTS.c.name, order, page)


def _gate_columns(gate: Gate) -> dict[str, object]:
    values = {column.name: getattr(gate, column.name) for column in fields(gate)}
    return storable({**values, "rules": [rule.to_json() for rule in gate.rules]})


def _verdict_columns(verdict: VerdictRow) -> dict[str, object]:
    values = {column.name: getattr(verdict, column.name) for column in fields(verdict)}
    outcomes = [outcome.to_json() for outcome in verdict.outcomes]
    plain = {"policy": verdict.policy.to_json(), "state": verdict.state.value, "outcomes": outcomes}
    return storable({**values, **plain})
