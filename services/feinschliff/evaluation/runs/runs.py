"""The rules of runs: queued, stopped, ended with the results of what is stored, and compared."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from feinschliff.evaluation import store
from feinschliff.evaluation.drafts import NOTHING, Brought, Once, RunDraft, run_of
from feinschliff.evaluation.evaluations import NEWEST_FIRST, Evaluations, Listing, check_etag, found
from feinschliff.evaluation.life import UNFINISHED, State, move
from feinschliff.evaluation.resources import (
    EVAL,
    ITEM,
    NO_USAGE,
    PROJECT,
    RUN,
    DatasetFacts,
    GraderResult,
    Identity,
    OutputItem,
    Run,
    Usage,
)
from feinschliff.evaluation.runs import item_store, row_store
from feinschliff.evaluation.runs.results import results_of
from feinschliff.formats.report import Failure
from feinschliff.graders.grader import parse_all
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import current_request_id
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import AlreadyExists, WrongState
from feinschliff.kit.filters import Order, conditions, parse_order
from feinschliff.kit.watch import Wake

GLANCE_SECONDS = 0.1
GLANCE_SHARE = 50  # a watch takes at most this part of the time


class RunView(NamedTuple):
    """A run and what its stored items say by now; `results` ends with `overall`."""

    run: Run
    results: Sequence[GraderResult]
    usage: Usage
    identities: Sequence[Identity]


class Glance(NamedTuple):
    """A view of a run that works, good enough for watchers until then."""

    view: RunView
    until: float


class Runs:
    """Runs and their items. Blocking; call it through `offload`."""

    def __init__(
        self, database: Database, evaluations: Evaluations, clock: Clock, wake: Wake, new_id: Callable[[str], str]
    ) -> None:
        self._database = database
        self._evaluations = evaluations
        self._clock = clock
        self._wake = wake
        self._new_id = new_id
        self._glances: dict[str, Glance] = {}

    def create(
        self,
        draft: RunDraft,
        dataset: DatasetFacts | None,
        once: Once,
        *,
        brought: Brought = NOTHING,
        validate_only: bool = False,
    ) -> RunView:
        """Queues a run, or checks whether it could be (then without a name).

        Args:
            dataset: the facts of the rows; of those it brings, where it brings some.
            brought: what was fetched for the run.

        Raises:
            NotFound: EVAL_NOT_FOUND.
            Invalid, WrongState: as `run_of`; REQUEST_ID_REUSED.
            AlreadyExists: RUN_EXISTS.
        """
        eval_ = self._evaluations.get(draft.parent)
        new_id, now = self._new_id("run-"), self._clock.now()
        wanted = run_of(draft, eval_, dataset, new_id, current_request_id(), now, brought)
        if validate_only:
            return RunView(replace(wanted, name=""), [], NO_USAGE, [])

        def make() -> str:
            if not store.insert_run(session, wanted):
                raise AlreadyExists("RUN_EXISTS", f"{wanted.name} exists.", name=wanted.name)
            row_store.insert_rows(session, wanted.name, brought.rows)
            return wanted.name

        with self._database.transaction() as session:
            method = f"CreateEvalRun {draft.parent}"
            name = store.LEDGER.once(session, method, once.request_id, once.body_digest, make)
        self._wake.notify()
        return self.get(name)

    def get(self, name: str) -> RunView:
        names.parse(RUN, name)
        return self._seen(name, is_patient=False)

    def after(self, name: str, cursor: int) -> builtins.list[RunView]:
        """The run, where it has changed since `cursor`; else nothing.

        While it works, all watchers see what one of them has worked out a moment ago: intervals of thousands of items
        cost time that the run itself needs.
        """
        view = self._seen(name, is_patient=True)
        return [view] if view.run.changes > cursor else []

    def _seen(self, name: str, *, is_patient: bool) -> RunView:
        now = self._clock.monotonic()
        with self._database.reading() as session:
            run = found(store.get_run(session, name), "RUN_NOT_FOUND", name)
            glance = self._glances.get(name)
            if is_patient and glance is not None and _is_good(glance, run, now):
                return glance.view
            view = _view(session, run)
        self._remember(view, took_seconds=self._clock.monotonic() - now)
        return view

    def _remember(self, view: RunView, took_seconds: float) -> None:
        if view.run.state in UNFINISHED:
            rest = max(GLANCE_SECONDS, took_seconds * GLANCE_SHARE)
            self._glances[view.run.name] = Glance(view, self._clock.monotonic() + rest)
        else:
            self._glances.pop(view.run.name, None)

    def is_over(self, name: str) -> bool:
        with self._database.reading() as session:
            return found(store.get_run(session, name), "RUN_NOT_FOUND", name).state not in UNFINISHED

    def list(self, asked: Listing) -> tuple[builtins.list[RunView], str, int]:
        """The runs of an eval, or of a whole project where the eval's id is `-`: one page, next token, how many."""
        parent = asked.parent
        of_all = parent.endswith("/evals/-")
        ids = names.parse(EVAL, parent.removesuffix("-") + "all" if of_all else parent, field="parent")
        project = names.build(PROJECT, project=ids["project"])
        where = conditions(asked.filter, store.RUN_FIELDS, store.RUN_READERS)
        order = parse_order(asked.order_by, list(store.RUN_ORDERS), NEWEST_FIRST)
        with self._database.reading() as session:
            if not of_all:
                found(store.get_eval(session, parent), "EVAL_NOT_FOUND", parent)
            scope = None if of_all else parent
            listed = store.list_runs(session, project, scope, where, order, asked.page("runs"))
            runs = [_view(session, store.run_of_row(row)) for row in listed.rows]
        return runs, listed.next_page_token, listed.total

    def cancel(self, name: str) -> RunView:
        """Stops a run; a second time changes nothing. Raises WrongState RUN_STATE_FORBIDS where it is over."""
        names.parse(RUN, name)
        with self._database.transaction() as session:
            run = found(store.lock_run(session, name), "RUN_NOT_FOUND", name)
            if run.state not in (State.CANCELLING, State.CANCELLED):
                to = State.CANCELLED if run.state is State.QUEUED else State.CANCELLING
                move(name, run.state, to)
                ended = {"finished": self._clock.now(), "results": []} if to is State.CANCELLED else {}
                store.save_run(session, run, state=to, **ended)
        self._wake.notify()
        return self.get(name)

    def delete(self, name: str, etag: str) -> None:
        """Removes a run that is over, with its items; raises WrongState RUN_NOT_OVER before."""
        run = self.get(name).run
        check_etag(etag, run.version, name)
        if run.state in UNFINISHED:
            raise WrongState("RUN_NOT_OVER", f"{name} is {run.state.value}; cancel it first.", run=name)
        with self._database.transaction() as session:
            store.delete_run(session, name)

    def list_items(self, asked: Listing) -> tuple[builtins.list[OutputItem], str, int]:
        names.parse(RUN, asked.parent, field="parent")
        where = conditions(asked.filter, item_store.ITEM_FIELDS, item_store.ITEM_READERS)
        order = parse_order(asked.order_by, list(item_store.ITEM_ORDERS), Order("line", descending=False))
        with self._database.reading() as session:
            found(store.get_run(session, asked.parent), "RUN_NOT_FOUND", asked.parent)
            return item_store.list_items(session, asked.parent, where, order, asked.page("items"))

    def get_item(self, name: str) -> OutputItem:
        ids = names.parse(ITEM, name)
        run = names.build(RUN, project=ids["project"], eval=ids["eval"], run=ids["run"])
        position = int(ids["item"]) if ids["item"].isdecimal() and len(ids["item"]) < 10 else 0
        with self._database.reading() as session:
            return found(item_store.get_item(session, run, position), "ITEM_NOT_FOUND", name)

    def finish(self, name: str, owner: str, failure: Failure | None) -> Run | None:
        """Ends a run with the results of its stored items; None where it is over or no longer the owner's.

        A run that was asked to stop ends CANCELLED unless all its items are there by then.
        """
        while True:
            with self._database.reading() as session:
                run = store.get_run(session, name)
                if run is None or run.state not in UNFINISHED or not _is_free_for(run, owner, self._clock):
                    return None
                results = run_results(session, run)
                why = failure or _all_errored(run, results, item_store.first_error(session, name))
            with self._database.transaction() as session:
                ended = self._end(session, run, why, results)
            if ended is not None:
                self._wake.notify()
                return ended

    def _end(self, session: Session, run: Run, failure: Failure | None, results: Sequence[GraderResult]) -> Run | None:
        """None where an item or another writer came in between: look again."""
        current = store.lock_run(session, run.name)
        if current is None or (current.changes, current.version) != (run.changes, run.version):
            return None
        to = _final_state(run, failure)
        move(run.name, run.state, to)
        return store.save_run(
            session,
            current,
            state=to,
            failure=failure if to is State.FAILED else None,
            results=results,
            finished=self._clock.now(),
            lease_owner="",
        )


def run_results(session: Session, run: Run) -> Sequence[GraderResult]:
    """What is stored of a run that is over, else what its items say by now."""
    if run.results is not None:
        return run.results
    if run.done == 0:
        return []
    eval_ = found(store.get_eval(session, run.eval), "EVAL_NOT_FOUND", run.eval)
    return results_of(
        parse_all(eval_.graders, path="graders", is_stored=True), item_store.graded_lines(session, run.name)
    )


def _is_good(glance: Glance, run: Run, now: float) -> bool:
    if glance.view.run.version != run.version:
        return False
    return glance.view.run.changes == run.changes or (run.state is State.RUNNING and now < glance.until)


def _view(session: Session, run: Run) -> RunView:
    usage, identities = item_store.usage_of(session, run.name), item_store.identities_of(session, run.name)
    return RunView(run, run_results(session, run), usage, identities)


def _is_free_for(run: Run, owner: str, clock: Clock) -> bool:
    return run.lease_owner in ("", owner) or run.lease_until < clock.now()


def _final_state(run: Run, failure: Failure | None) -> State:
    if run.state is State.CANCELLING and (failure is not None or run.done < run.total):
        return State.CANCELLED
    return State.FAILED if failure is not None else State.COMPLETED


def _all_errored(run: Run, results: Sequence[GraderResult], first: Failure | None) -> Failure | None:
    if first is None or not results or results[-1].errored < run.total:
        return None
    return Failure(
        reason="ALL_ITEMS_ERRORED",
        message=f"None of {run.total} items has an answer; the first says {first.reason}: {first.message}"[:4096],
        advice=first.advice,
        retryable=first.retryable,
    )
