"""The rules of verdicts: begun once, measured by runs that are an eval's own, given once and kept for good."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from dataclasses import replace

from feinschliff.evaluation import store
from feinschliff.evaluation.drafts import Once
from feinschliff.evaluation.evaluations import NEWEST_FIRST, Listing, found
from feinschliff.evaluation.gates import store as gate_store
from feinschliff.evaluation.gates.gates import GATE
from feinschliff.evaluation.gates.judging import Outcome
from feinschliff.evaluation.gates.store import VERDICTS, Gate, VerdictRow, VerdictState
from feinschliff.evaluation.resources import PROJECT
from feinschliff.formats.report import Failure
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import current_request_id
from feinschliff.kit.db import Database
from feinschliff.kit.filters import conditions, parse_order
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.watch import Wake

VERDICT = GATE + "/verdicts/{verdict}"


class Verdicts:
    """Blocking; call it through `offload`."""

    def __init__(
        self, database: Database, clock: Clock, wake: Wake, metrics: Metrics, new_id: Callable[[str], str], owner: str
    ) -> None:
        self._database = database
        self._clock = clock
        self._wake = wake
        self._new_id = new_id
        self._owner = owner
        self._given = metrics.counter("feinschliff_evaluation_verdicts_total")
        self._seconds = metrics.histogram("feinschliff_evaluation_verdict_seconds")

    def create(
        self, gate: Gate, candidate: str, baseline: str, total: int, once: Once, *, validate_only: bool
    ) -> VerdictRow:
        """Begins a verdict over the gate as it is now, or says what would be begun (then without a name).

        Raises:
            Invalid: REQUEST_ID_REUSED.
        """
        now = self._clock.now()
        wanted = VerdictRow(
            name=f"{gate.name}/verdicts/{self._new_id('verdict-')}",
            gate=gate.name,
            project=gate.parent,
            candidate=candidate,
            baseline=baseline,
            policy=gate,
            total=total,
            created=now,
            lease_until=now,
            request_id=current_request_id(),
        )
        if validate_only:
            return replace(wanted, name="")

        def make() -> str:
            gate_store.insert_verdict(session, wanted)
            return wanted.name

        with self._database.transaction() as session:
            name = store.LEDGER.once(session, f"EvaluateGate {gate.name}", *once, make)
            verdict = found(gate_store.get_verdict(session, name), "VERDICT_NOT_FOUND", name)
        self._wake.notify()
        return verdict

    def get(self, name: str) -> VerdictRow:
        names.parse(VERDICT, name)
        with self._database.reading() as session:
            return found(gate_store.get_verdict(session, name), "VERDICT_NOT_FOUND", name)

    def after(self, name: str, cursor: int) -> builtins.list[VerdictRow]:
        """The verdict, where it has changed since `cursor`; else nothing."""
        verdict = self.get(name)
        return [verdict] if verdict.changes > cursor else []

    def is_over(self, name: str) -> bool:
        return self.get(name).state is not VerdictState.RUNNING

    def list(self, asked: Listing) -> tuple[builtins.list[VerdictRow], str, int]:
        """The verdicts of a gate, whether or not it still exists, or of a whole project where the gate's id is `-`."""
        of_all = asked.parent.endswith("/gatePolicies/-")
        parent = asked.parent.removesuffix("-") + "all" if of_all else asked.parent
        ids = names.parse(GATE, parent, field="parent")
        project = names.build(PROJECT, project=ids["project"])
        where = conditions(asked.filter, gate_store.VERDICT_FIELDS, gate_store.VERDICT_READERS)
        order = parse_order(asked.order_by, [*gate_store.VERDICT_ORDERS], NEWEST_FIRST)
        scope = None if of_all else asked.parent
        with self._database.reading() as session:
            listed = gate_store.list_verdicts(session, project, scope, where, order, asked.page("verdicts"))
        return [gate_store.verdict_of_row(row) for row in listed.rows], listed.next_page_token, listed.total

    def at(self, name: str, done: int, total: int) -> None:
        """Notes how far the measuring is; a watcher sees it."""
        moved = (VERDICTS.c.done != done) | (VERDICTS.c.total != total)
        with self._database.transaction() as session:
            running = (VERDICTS.c.name == name) & (VERDICTS.c.state == VerdictState.RUNNING.value)
            values = {"done": done, "total": total, "changes": VERDICTS.c.changes + 1}
            if store.touched(session, VERDICTS.update().where(running & moved).values(**values)):
                self._wake.notify()

    def give(self, name: str, outcomes: Sequence[Outcome]) -> None:
        """Ends a verdict that still runs and is ours to end; a second time changes nothing."""
        passed = all(outcome.holds for outcome in outcomes)
        self._end(name, VerdictState.PASSED if passed else VerdictState.REFUSED, outcomes, None)

    def give_up(self, name: str, failure: Failure) -> None:
        self._end(name, VerdictState.FAILED, [], failure)

    def _end(self, name: str, state: VerdictState, outcomes: Sequence[Outcome], failure: Failure | None) -> None:
        now = self._clock.now()
        values = store.storable(
            {
                "state": state.value,
                "outcomes": [outcome.to_json() for outcome in outcomes],
                "failure": failure,
                "finished": now,
                "lease_owner": "",
            }
        )
        counters = {"changes": VERDICTS.c.changes + 1, "version": VERDICTS.c.version + 1}
        running = (VERDICTS.c.name == name) & (VERDICTS.c.state == VerdictState.RUNNING.value)
        with self._database.transaction() as session:
            running &= VERDICTS.c.lease_owner == self._owner
            ended = store.touched(session, VERDICTS.update().where(running).values(**values, **counters)) == 1
        if ended:
            self._given.labels(state.value).inc()
            self._seconds.observe((now - self.get(name).created).total_seconds())
            self._wake.notify()
