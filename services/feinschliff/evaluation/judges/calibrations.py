"""The rules of calibrations: a judge and human judgements, measured once and kept."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from feinschliff.evaluation import store
from feinschliff.evaluation.drafts import Once
from feinschliff.evaluation.evaluations import NEWEST_FIRST, Listing, found
from feinschliff.evaluation.judges import store as calibration_store
from feinschliff.evaluation.judges.agreement import Measured, doubts
from feinschliff.evaluation.judges.store import CALIBRATIONS, UNFINISHED, Calibration, CalibrationState
from feinschliff.evaluation.judges.trust import JUDGES, Credential
from feinschliff.evaluation.prompts.prompt import DEFAULT_ANSWER
from feinschliff.evaluation.resources import PROJECT, DatasetFacts
from feinschliff.evaluation.work import measured_store
from feinschliff.formats.report import Failure
from feinschliff.graders import template
from feinschliff.graders.grader import parse
from feinschliff.graders.spec import Spec, refused
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import current_request_id
from feinschliff.kit.db import Database
from feinschliff.kit.errors import AlreadyExists, WrongState
from feinschliff.kit.filters import conditions, parse_order
from feinschliff.kit.watch import Wake

CALIBRATION = "projects/{project}/calibrations/{calibration}"
ROWS = "rows"


class CalibrationDraft(NamedTuple):
    """A calibration as its maker wants it; empty paths are the defaults."""

    parent: str
    calibration_id: str
    grader: Spec
    dataset_version: str
    label_path: str
    answer_path: str
    other_answer_path: str


class Calibrations:
    """Blocking; call it through `offload`."""

    def __init__(self, database: Database, clock: Clock, wake: Wake, new_id: Callable[[str], str], owner: str) -> None:
        self._database = database
        self._clock = clock
        self._wake = wake
        self._new_id = new_id
        self._owner = owner

    def create(self, draft: CalibrationDraft, dataset: DatasetFacts, once: Once, *, validate_only: bool) -> Calibration:
        """Queues a calibration, or checks whether it could be made (then without a name).

        Raises:
            Invalid: CALIBRATION_NO_JUDGE, what the grader and the paths are refused for; REQUEST_ID_REUSED.
            Unserved: what `parse` says.
            WrongState: DATASET_VERSION_NOT_READY, RUN_WITHOUT_ROWS.
            AlreadyExists: CALIBRATION_EXISTS.
        """
        wanted = self._wanted(draft, dataset)
        if validate_only:
            return replace(wanted, name="")

        def make() -> str:
            if not calibration_store.insert_calibration(session, wanted):
                raise AlreadyExists("CALIBRATION_EXISTS", f"{wanted.name} exists.", name=wanted.name)
            return wanted.name

        with self._database.transaction() as session:
            name = store.LEDGER.once(session, f"CalibrateJudge {draft.parent}", *once, make)
        self._wake.notify()
        return self.get(name)

    def get(self, name: str) -> Calibration:
        names.parse(CALIBRATION, name)
        with self._database.reading() as session:
            return found(calibration_store.get_calibration(session, name), "CALIBRATION_NOT_FOUND", name)

    def credential(self, name: str) -> Credential:
        """The calibration as gates see it; raises NotFound CALIBRATION_NOT_FOUND."""
        calibration = self.get(name)
        measured = calibration.measured
        against = [doubt.message for doubt in doubts(measured) if doubt.forbids] if measured is not None else []
        return Credential(name, measured is not None, calibration.grader, against, calibration.identity)

    def after(self, name: str, cursor: int) -> builtins.list[Calibration]:
        """The calibration, where it has changed since `cursor`; else nothing."""
        calibration = self.get(name)
        return [calibration] if calibration.changes > cursor else []

    def is_over(self, name: str) -> bool:
        return self.get(name).state.value not in UNFINISHED

    def list(self, asked: Listing) -> tuple[builtins.list[Calibration], str, int]:
        names.parse(PROJECT, asked.parent, field="parent")
        where = conditions(asked.filter, calibration_store.FIELDS, calibration_store.READERS)
        order = parse_order(asked.order_by, [*calibration_store.ORDERS], NEWEST_FIRST)
        with self._database.reading() as session:
            page = asked.page("calibrations")
            listed = calibration_store.list_calibrations(session, asked.parent, where, order, page)
        rows = [calibration_store.calibration_of_row(row) for row in listed.rows]
        return rows, listed.next_page_token, listed.total

    def begin(self, name: str) -> None:
        """Marks a queued calibration as running; one that runs already stays so."""
        self._write(name, (CalibrationState.QUEUED.value,), {"state": CalibrationState.RUNNING.value})

    def put(self, name: str, position: int, data: Mapping[str, object]) -> None:
        """Stores what came of one row, and counts it."""
        with self._database.transaction() as session:
            if measured_store.put_measured(session, name, ROWS, position, data):
                counted = {"done": CALIBRATIONS.c.done + 1, "changes": CALIBRATIONS.c.changes + 1}
                session.execute(CALIBRATIONS.update().where(CALIBRATIONS.c.name == name).values(**counted))

    def stored(self, name: str) -> dict[int, dict[str, object]]:
        with self._database.reading() as session:
            return measured_store.measured(session, name, ROWS)

    def succeed(self, name: str, measured: Measured, identity: Mapping[str, str] | None) -> None:
        """Ends a calibration that is not over and is ours to end; a second time changes nothing."""
        values = {"measured": calibration_store.measured_json(measured), "identity": identity}
        self._end(name, CalibrationState.SUCCEEDED, values)

    def give_up(self, name: str, failure: Failure) -> None:
        self._end(name, CalibrationState.FAILED, {"failure": failure})

    def _end(self, name: str, state: CalibrationState, values: Mapping[str, object]) -> None:
        ended = {"state": state.value, "finished": self._clock.now(), "lease_owner": ""}
        self._write(name, UNFINISHED, {**values, **ended})

    def _write(self, name: str, states: tuple[str, ...], values: Mapping[str, object]) -> None:
        where = (CALIBRATIONS.c.name == name) & CALIBRATIONS.c.state.in_(states)
        where &= CALIBRATIONS.c.lease_owner == self._owner
        counters = {"changes": CALIBRATIONS.c.changes + 1, "version": CALIBRATIONS.c.version + 1}
        with self._database.transaction() as session:
            session.execute(CALIBRATIONS.update().where(where).values(**store.storable(values), **counters))
        self._wake.notify()

    def _wanted(self, draft: CalibrationDraft, dataset: DatasetFacts) -> Calibration:
        names.parse(PROJECT, draft.parent, field="parent")
        calibration_id = draft.calibration_id or self._new_id("calibration-")
        names.check_id(calibration_id, field="calibration_id")
        if draft.grader.get("type") not in JUDGES:
            message = f"Only {' and '.join(JUDGES)} graders are judges; this one is {draft.grader.get('type')}."
            raise refused("CALIBRATION_NO_JUDGE", "calibration.grader", message, type=draft.grader.get("type"))
        grader = parse(draft.grader, path="calibration.grader", nested=True)
        answer_path = draft.answer_path or DEFAULT_ANSWER
        template.parse_path(draft.label_path, field="calibration.label_path")
        template.parse_path(answer_path, field="calibration.answer_path")
        if draft.other_answer_path:
            template.parse_path(draft.other_answer_path, field="calibration.other_answer_path")
        if not dataset.is_ready:
            message = f"{dataset.name} is not ready; wait until it is."
            raise WrongState("DATASET_VERSION_NOT_READY", message, dataset_version=dataset.name)
        if dataset.rows == 0:
            raise WrongState("RUN_WITHOUT_ROWS", f"{dataset.name} has no rows.", dataset_version=dataset.name)
        now = self._clock.now()
        return Calibration(
            name=f"{draft.parent}/calibrations/{calibration_id}",
            parent=draft.parent,
            grader=grader.spec(),
            dataset_version=dataset.name,
            label_path=draft.label_path,
            answer_path=answer_path,
            other_answer_path=draft.other_answer_path,
            total=dataset.rows,
            created=now,
            lease_until=now,
            request_id=current_request_id(),
        )
