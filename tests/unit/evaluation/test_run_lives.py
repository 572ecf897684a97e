"""Whatever happens to a run and in whatever order, its promises hold: a model-based test."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from feinschliff.evaluation import store
from feinschliff.evaluation.drafts import EvalDraft, Once, RunDraft
from feinschliff.evaluation.evaluations import Evaluations
from feinschliff.evaluation.life import MOVES, UNFINISHED, State
from feinschliff.evaluation.resources import DatasetFacts, GradeGiven, OutputItem, Run
from feinschliff.evaluation.runs import item_store
from feinschliff.evaluation.runs.runs import Runs
from feinschliff.formats.report import Failure
from feinschliff.kit.clock import ManualClock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Conflict, WrongState
from feinschliff.kit.names import new_id
from feinschliff.kit.watch import Wake

ROWS = 3
LEASE_SECONDS = 10.0
DATASET = DatasetFacts("projects/default/datasets/d/versions/1", True, ROWS, {"train": ROWS})
GRADER = {"type": "string_check", "name": "exact", "input": "a", "reference": "a", "operation": "eq"}
owners = st.sampled_from(["one", "two"])


class RunLife(RuleBasedStateMachine):
    """Two processes and a user do to one run what they like, each with what it last read."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'life.db'}", "evaluation")
        store.METADATA.create_all(self.database.engine)
        evaluations = Evaluations(self.database, self.clock, new_id)
        self.runs = Runs(self.database, evaluations, self.clock, Wake(), new_id)
        draft = EvalDraft("projects/default", "e", "", "", DATASET.name, None, [GRADER], {}, "", {}, {})
        eval_ = evaluations.create(draft, DATASET, Once("", ""))
        wanted = RunDraft(eval_.name, "r", "", "router", "", {}, None, "", 0, 0, "", {}, {})
        self.seen = self.runs.create(wanted, DATASET, Once("", "")).run
        self.known: dict[str, Run] = {"one": self.seen, "two": self.seen}
        self.stored: dict[int, float] = {}

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @property
    def run(self) -> Run:
        return self.runs.get(self.seen.name).run

    @rule(owner=owners)
    def look(self, owner: str) -> None:
        self.known[owner] = self.run

    @rule(owner=owners)
    def claim(self, owner: str) -> None:
        known = self.known[owner]
        if known.state not in (State.QUEUED, State.RUNNING):
            return
        if known.lease_owner not in ("", owner) and known.lease_until > self.clock.now():
            return
        try:
            with self.database.transaction() as session:
                self.known[owner] = store.claim(session, known, owner, self.clock.now(), LEASE_SECONDS)
        except Conflict:
            assert self.run.version != known.version

    @rule(position=st.integers(1, ROWS), value=st.sampled_from([0.0, 1.0]))
    def store_item(self, position: int, value: float) -> None:
        grade = GradeGiven("exact", value, value == 1.0, "")
        item = OutputItem(self.seen.name, position, position, {}, self.clock.now(), grades=[grade])
        is_working = self.run.state in (State.RUNNING, State.CANCELLING)
        try:
            with self.database.transaction() as session:
                is_new = item_store.insert_item(session, item)
        except WrongState:
            assert not is_working
            return
        assert is_new is (position not in self.stored)
        self.stored.setdefault(position, value)

    @rule()
    def cancel(self) -> None:
        before = self.run.state
        try:
            self.runs.cancel(self.seen.name)
        except WrongState:
            assert before in (State.COMPLETED, State.FAILED)
            return
        assert self.run.state in (State.CANCELLING, State.CANCELLED)

    @precondition(lambda self: self.run.state in (State.RUNNING, State.CANCELLING))
    @rule(owner=owners, is_broken=st.booleans())
    def finish(self, owner: str, is_broken: bool) -> None:
        if not is_broken and len(self.stored) < ROWS and self.run.state is State.RUNNING:
            return
        failure = Failure(reason="BROKEN", message="broken") if is_broken else None
        before = self.run
        ended = self.runs.finish(self.seen.name, owner, failure)
        is_theirs = before.lease_owner not in ("", owner) and before.lease_until >= self.clock.now()
        assert (ended is None) is is_theirs

    @rule(seconds=st.sampled_from([1.0, LEASE_SECONDS + 1]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(owner=owners)
    def renew(self, owner: str) -> None:
        before = self.run
        with self.database.transaction() as session:
            assert store.renew(session, before.name, owner, self.clock.now()) is (before.lease_owner == owner)

    @invariant()
    def promises_hold(self) -> None:
        run, before = self.run, self.seen
        self.seen = run
        assert run.changes >= before.changes
        assert run.done == len(self.stored)
        if run.state is not before.state:
            assert run.state in _reachable(before.state)
            assert run.changes > before.changes
        if before.state not in UNFINISHED:
            assert run == before
        if run.state not in UNFINISHED:
            assert run.finished is not None
            assert run.results is not None
        if run.state is State.COMPLETED:
            assert len(self.stored) == ROWS
            assert run.results is not None
            assert run.results[-1].mean == sum(self.stored.values()) / ROWS


def _reachable(state: State) -> set[State]:
    """Within one rule a run may move more than once."""
    near = set(MOVES.get(state, frozenset()))
    return near | {far for one in near for far in MOVES.get(one, frozenset())}


TestRunLife = RunLife.TestCase
TestRunLife.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
