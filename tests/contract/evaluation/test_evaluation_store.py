"""The tables keep their promises on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from feinschliff.evaluation import store
from feinschliff.evaluation.drafts import EvalDraft, Once, RunDraft
from feinschliff.evaluation.evaluations import Evaluations, Listing
from feinschliff.evaluation.gates.store import VERDICTS, Gate
from feinschliff.evaluation.gates.verdicts import Verdicts
from feinschliff.evaluation.judges import store as calibration_store
from feinschliff.evaluation.judges.calibrations import Calibrations
from feinschliff.evaluation.judges.store import CALIBRATIONS, Calibration
from feinschliff.evaluation.life import State
from feinschliff.evaluation.resources import DatasetFacts, GradeGiven, Identity, OutputItem, Run, Usage
from feinschliff.evaluation.runs import item_store
from feinschliff.evaluation.runs.runs import Runs
from feinschliff.evaluation.work import lease_store
from feinschliff.formats.records import Message
from feinschliff.formats.report import Failure
from feinschliff.graders.grade import Judgement
from feinschliff.kit.clock import ManualClock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import AlreadyExists, Conflict, WrongState
from feinschliff.kit.filters import Order, conditions
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.names import new_id
from feinschliff.kit.paging import Page
from feinschliff.kit.watch import Wake

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATASET = DatasetFacts("projects/default/datasets/d/versions/1", True, 5, {"train": 5})
GRADER = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.completion }}",
    "operation": "eq",
}
ONCE = Once("", "")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, "evaluation")
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def evaluations(database: Database, clock: ManualClock) -> Evaluations:
    return Evaluations(database, clock, new_id)


@pytest.fixture
def runs(database: Database, evaluations: Evaluations, clock: ManualClock) -> Runs:
    return Runs(database, evaluations, clock, Wake(), new_id)


@pytest.fixture
def run(evaluations: Evaluations, runs: Runs) -> Run:
    draft = EvalDraft("projects/default", "e", "", "", DATASET.name, None, [GRADER], {}, "", {"team": "a"}, {})
    eval_ = evaluations.create(draft, DATASET, ONCE)
    return runs.create(run_draft(eval_.name), DATASET, ONCE).run


def run_draft(eval_: str, run_id: str = "") -> RunDraft:
    return RunDraft(eval_, run_id, "", "router", "", {}, None, "", 0, 0, "", {}, {})


def claimed(database: Database, run: Run, owner: str = "one", lease_seconds: float = 10) -> Run:
    with database.transaction() as session:
        return store.claim(session, run, owner, NOW, lease_seconds)


def item(run: Run, position: int, value: float | None = 1.0, **changes: object) -> OutputItem:
    made = OutputItem(
        run=run.name,
        position=position,
        line=position * 10,
        item={"completion": "refund", "nested": {"list": [1, 0.5, None, True, "ä"]}},
        created=NOW,
        prompt=[Message(role="user", content="hello")],
        message=Message(role="assistant", content="refund"),
        finish_reason="stop",
        usage=Usage(10, 2, 1, 0),
        latency_seconds=0.5,
        identity=Identity("models/m/versions/1", "sha256:b", "", "t"),
        grades=[GradeGiven("exact", value, value == 1.0, "why")],
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def insert(database: Database, made: OutputItem) -> bool:
    with database.transaction() as session:
        return item_store.insert_item(session, made)


def listed(database: Database, run: Run, filter: str = "") -> list[OutputItem]:
    where = conditions(filter, item_store.ITEM_FIELDS, item_store.ITEM_READERS)
    with database.reading() as session:
        return item_store.list_items(session, run.name, where, Order("line", False), Page.open("", 1000, "x"))[0]


def test_the_migrations_make_the_tables_that_the_code_means(database: Database) -> None:
    with database.engine.connect() as connection:
        ours = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: kind != "table" or name in store.METADATA.tables},
        )
        assert compare_metadata(ours, store.METADATA) == []


def test_what_is_stored_comes_back_equal(database: Database, evaluations: Evaluations, runs: Runs, run: Run) -> None:
    eval_ = evaluations.get("projects/default/evals/e")
    assert (eval_.graders, dict(eval_.labels), eval_.created) == ([GRADER], {"team": "a"}, NOW)
    assert runs.get(run.name).run == run
    assert (run.state, run.total, run.created) == (State.QUEUED, 5, NOW)
    claimed(database, run)
    judged = Judgement("judge", "score/1", [{"role": "user", "content": "?"}], "0.5", {"model_version": "v"}, 3, 4)
    grade = GradeGiven("both", 1.0, True, "why", "", 1.5, "read", "right", {"style": 1.5}, (judged,))
    made = item(run, 1, grades=[grade, GradeGiven("style", None, False, "why", "judge")])
    insert(database, made)
    assert listed(database, run) == [made]
    errored = item(run, 2, message=None, identity=None, grades=[], error=Failure(reason="LOST", message="y"))
    insert(database, errored)
    assert listed(database, run) == [made, errored]


def test_a_row_is_stored_once_however_often_it_is_graded(database: Database, run: Run, runs: Runs) -> None:
    claimed(database, run)
    assert insert(database, item(run, 1))
    assert not insert(database, item(run, 1, value=0.0))
    assert not insert(database, item(run, 2, line=10))
    assert [made.grades[0].value for made in listed(database, run)] == [1.0]
    view = runs.get(run.name)
    assert (view.run.done, view.results[0].n, view.usage) == (1, 1, Usage(10, 2, 1, 0))


def test_writers_of_the_same_rows_at_once_store_each_once(database: Database, run: Run, runs: Runs) -> None:
    claimed(database, run)
    stored: list[bool] = []
    lock = threading.Lock()

    def write(offset: int) -> None:
        for position in (1 + (offset + k) % 5 for k in range(5)):
            is_new = insert(database, item(run, position))
            with lock:
                stored.append(is_new)

    threads = [threading.Thread(target=write, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored.count(True) == 5
    assert runs.get(run.name).run.done == 5
    assert [made.position for made in listed(database, run)] == [1, 2, 3, 4, 5]


def test_every_change_moves_the_cursor_on(database: Database, run: Run, runs: Runs) -> None:
    cursors = [run.changes, claimed(database, run).changes]
    for position in (1, 2):
        insert(database, item(run, position))
        cursors.append(runs.get(run.name).run.changes)
    insert(database, item(run, 2))
    assert runs.get(run.name).run.changes == cursors[-1]
    runs.cancel(run.name)
    cursors.append(runs.get(run.name).run.changes)
    assert runs.finish(run.name, "one", None) is not None
    cursors.append(runs.get(run.name).run.changes)
    assert cursors == sorted(set(cursors))
    assert runs.after(run.name, cursors[-1]) == []
    assert [view.run.changes for view in runs.after(run.name, cursors[-2])] == [cursors[-1]]


def test_only_one_claims_a_run(database: Database, run: Run) -> None:
    claimed(database, run, "one")
    with pytest.raises(Conflict):
        claimed(database, run, "two")


def test_a_lease_is_renewed_by_its_owner_alone(database: Database, run: Run, runs: Runs, clock: ManualClock) -> None:
    claimed(database, run, "one", lease_seconds=10)
    with database.transaction() as session:
        assert store.renew(session, run.name, "one", NOW + timedelta(seconds=20))
        assert not store.renew(session, run.name, "two", NOW + timedelta(seconds=20))
        store.release(session, run.name, "two", NOW)
    assert runs.get(run.name).run.lease_owner == "one"
    assert runs.finish(run.name, "two", None) is None
    with database.transaction() as session:
        store.release(session, run.name, "one", NOW)
    assert runs.get(run.name).run.lease_owner == ""


def test_a_run_that_is_over_takes_no_more_items_and_keeps_its_results(database: Database, run: Run, runs: Runs) -> None:
    claimed(database, run)
    for position in range(1, 6):
        insert(database, item(run, position, value=float(position != 3)))
    ended = runs.finish(run.name, "one", None)
    assert ended is not None
    assert ended.state is State.COMPLETED
    assert ended.results is not None
    assert [(result.grader, result.n, result.mean) for result in ended.results] == [
        ("exact", 5, 0.8),
        ("overall", 5, 0.8),
    ]
    with pytest.raises(WrongState) as refusal:
        insert(database, item(run, 9))
    assert refusal.value.reason == "RUN_OVER"
    assert len(listed(database, run)) == 5
    assert runs.get(run.name).results == ended.results
    assert runs.finish(run.name, "one", None) is None


def test_results_count_every_item_that_was_stored_even_while_the_run_ends(
    database: Database, run: Run, runs: Runs
) -> None:
    claimed(database, run)
    runs.cancel(run.name)
    is_begun = threading.Event()

    def write(first: int) -> None:
        for position in range(first, first + 100):
            try:
                insert(database, item(run, position))
            except WrongState:
                return
            is_begun.set()

    threads = [threading.Thread(target=write, args=(1000 * k,)) for k in range(1, 4)]
    for thread in threads:
        thread.start()
    assert is_begun.wait(10)
    ended = runs.finish(run.name, "one", Failure(reason="STOPPED", message="stopped"))
    for thread in threads:
        thread.join()
    assert ended is not None
    assert ended.results is not None
    stored = len(listed(database, run))
    assert (ended.results[-1].n, runs.get(run.name).run.done) == (stored, stored)


@pytest.mark.parametrize(
    ("is_cancelled", "items", "failure", "state"),
    [
        (False, 5, None, State.COMPLETED),
        (False, 2, Failure(reason="LOST", message="y"), State.FAILED),
        (True, 2, None, State.CANCELLED),
        (True, 2, Failure(reason="LOST", message="y"), State.CANCELLED),
        (True, 5, None, State.COMPLETED),
    ],
)
def test_a_run_ends_as_its_items_and_wishes_say(
    database: Database, run: Run, runs: Runs, is_cancelled: bool, items: int, failure: Failure | None, state: State
) -> None:
    claimed(database, run)
    for position in range(1, items + 1):
        insert(database, item(run, position))
    if is_cancelled:
        assert runs.cancel(run.name).run.state is State.CANCELLING
    ended = runs.finish(run.name, "one", failure)
    assert ended is not None
    assert ended.state is state
    assert ended.failure == (failure if state is State.FAILED else None)
    assert ended.finished == NOW


def test_identities_come_in_the_order_of_their_first_item(database: Database, run: Run, runs: Runs) -> None:
    claimed(database, run)
    second = Identity("models/m/versions/2", "sha256:b", "", "t")
    insert(database, item(run, 4))
    insert(database, item(run, 1, identity=second))
    insert(database, item(run, 2, identity=None))
    insert(database, item(run, 3, identity=second))
    assert [identity.model_version[-1] for identity in runs.get(run.name).identities] == ["2", "1"]


@pytest.mark.parametrize(
    ("filter", "lines"),
    [
        ("passed = true", [10, 40]),
        ("passed = false", [20, 30, 50]),
        ("errored = true", [50]),
        ("line > 20 AND passed = false", [30, 50]),
        ("value < 1", [20]),
        ('grader = "exact"', [10, 20, 30, 40]),
        ('grader = "other" AND value < 1', []),
        ('grader = "exact" AND value >= 0', [10, 20, 40]),
    ],
)
def test_items_are_found_by_what_they_got(database: Database, run: Run, filter: str, lines: list[int]) -> None:
    claimed(database, run)
    for position, value in enumerate([1.0, 0.0, None, 1.0], 1):
        insert(database, item(run, position, value=value))
    insert(database, item(run, 5, message=None, grades=[], error=Failure(reason="LOST", message="y")))
    assert [made.line for made in listed(database, run, filter)] == lines


def test_nul_which_postgres_cannot_keep_is_shown_as_a_sign(database: Database, run: Run) -> None:
    claimed(database, run)
    message = Message(role="assistant", content="a\x00b")
    insert(database, item(run, 1, message=message, item={"k\x00": ["\x00"]}, grades=[]))
    (made,) = listed(database, run)
    assert (made.sample, made.item) == ("a\ufffdb", {"k\ufffd": ["\ufffd"]})


def test_a_removed_eval_takes_everything_with_it(
    database: Database, evaluations: Evaluations, runs: Runs, run: Run
) -> None:
    claimed(database, run)
    insert(database, item(run, 1))
    with pytest.raises(WrongState):
        evaluations.delete(run.eval, "")
    runs.cancel(run.name)
    runs.finish(run.name, "one", None)
    evaluations.delete(run.eval, "")
    with database.reading() as session:
        for table in (store.EVALS, store.RUNS, store.ITEMS, store.GRADES):
            assert session.execute(table.select()).all() == []


def test_a_taken_id_is_refused(evaluations: Evaluations, runs: Runs, run: Run) -> None:
    runs.create(run_draft(run.eval, "mine"), DATASET, ONCE)
    with pytest.raises(AlreadyExists) as refusal:
        runs.create(run_draft(run.eval, "mine"), DATASET, ONCE)
    assert refusal.value.reason == "RUN_EXISTS"


def test_two_writers_of_one_eval_notice_each_other(evaluations: Evaluations, run: Run) -> None:
    before = evaluations.get(run.eval)
    evaluations.update(before, "", display_name="first")
    with pytest.raises(Conflict):
        evaluations.update(before, "", display_name="second")
    assert evaluations.get(run.eval).display_name == "first"


def test_pages_of_runs_hold_each_run_once(runs: Runs, run: Run, clock: ManualClock) -> None:
    made = [run.name]
    for k in range(6):
        clock.advance(k % 2)
        made.append(runs.create(run_draft(run.eval, f"r{k}"), DATASET, ONCE).run.name)
    seen: list[str] = []
    token = ""
    while True:
        views, token, total = runs.list(Listing("projects/default/evals/-", 2, token, "", ""))
        seen += [view.run.name for view in views]
        assert total == 7
        if not token:
            break
    assert sorted(seen) == sorted(made)
    created = [runs.get(name).run.created for name in seen]
    assert created == sorted(created, reverse=True)


def test_only_the_holder_of_the_lease_ends_a_verdict_or_a_calibration(database: Database, clock: ManualClock) -> None:
    metrics, failure = Metrics("evaluation"), Failure(reason="LOST", message="x")
    gate = Gate("projects/default/gatePolicies/g", "projects/default", "", [], {}, {}, NOW, NOW)
    mine, other = (Verdicts(database, clock, Wake(), metrics, new_id, owner) for owner in ("me", "other"))
    verdict = mine.create(gate, "c", "", 1, ONCE, validate_only=False).name
    calibration = Calibration("projects/default/calibrations/c", "projects/default", {}, "d", "", "", "", 1, NOW, NOW)
    my, others = (Calibrations(database, clock, Wake(), new_id, owner) for owner in ("me", "other"))
    with database.transaction() as session:
        calibration_store.insert_calibration(session, calibration)
    for table, states in ((VERDICTS, ["running"]), (CALIBRATIONS, ["queued"])):
        with database.transaction() as session:
            (lease,) = lease_store.unfinished(session, table, states)
            assert lease_store.claim(session, table, lease, states, "me", NOW + timedelta(minutes=1))
    other.give_up(verdict, failure)
    other.give(verdict, [])
    others.give_up(calibration.name, failure)
    assert (mine.get(verdict).state.value, my.get(calibration.name).state.value) == ("running", "queued")
    mine.give(verdict, [])
    my.give_up(calibration.name, failure)
    assert (mine.get(verdict).state.value, my.get(calibration.name).state.value) == ("passed", "failed")
