"""The rules of evals: what may be made, changed and removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

from feinschliff.evaluation import checks, store
from feinschliff.evaluation.drafts import EvalDraft, Once, eval_of
from feinschliff.evaluation.gates import store as gate_store
from feinschliff.evaluation.resources import EVAL, PROJECT, DatasetFacts, Eval
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import AlreadyExists, Conflict, NotFound, WrongState
from feinschliff.kit.filters import Order, conditions, parse_order
from feinschliff.kit.paging import Page

T = TypeVar("T")
NEWEST_FIRST = Order("create_time", descending=True)


class Listing(NamedTuple):
    """What a list call asks for."""

    parent: str
    page_size: int
    page_token: str
    filter: str
    order_by: str

    def page(self, what: str) -> Page:
        return Page.open(self.page_token, self.page_size, what, self.parent, self.filter, self.order_by)


class Evaluations:
    """Evals. Blocking; call it through `offload`."""

    def __init__(self, database: Database, clock: Clock, new_id: Callable[[str], str]) -> None:
        self._database = database
        self._clock = clock
        self._new_id = new_id

    def create(
        self, draft: EvalDraft, dataset: DatasetFacts | None, once: Once, *, validate_only: bool = False
    ) -> Eval:
        """Makes an eval, or checks whether one could be made (then without a name).

        Raises:
            Invalid, WrongState: as `eval_of`; REQUEST_ID_REUSED.
            AlreadyExists: EVAL_EXISTS.
        """
        wanted = eval_of(draft, dataset, self._new_id("eval-"), self._clock.now())
        if validate_only:
            return replace(wanted, name="")

        def make() -> str:
            if not store.insert_eval(session, wanted):
                raise AlreadyExists("EVAL_EXISTS", f"{wanted.name} exists.", name=wanted.name)
            return wanted.name

        with self._database.transaction() as session:
            method = f"CreateEval {draft.parent}"
            name = store.LEDGER.once(session, method, once.request_id, once.body_digest, make)
            return found(store.get_eval(session, name), "EVAL_NOT_FOUND", name)

    def get(self, name: str) -> Eval:
        names.parse(EVAL, name)
        with self._database.reading() as session:
            return found(store.get_eval(session, name), "EVAL_NOT_FOUND", name)

    def list(self, asked: Listing) -> tuple[list[Eval], str, int]:
        """The evals of one page, the token of the next, and how many there are."""
        names.parse(PROJECT, asked.parent, field="parent")
        where = conditions(asked.filter, store.EVAL_FIELDS, store.EVAL_READERS)
        order = parse_order(asked.order_by, list(store.EVAL_ORDERS), NEWEST_FIRST)
        with self._database.reading() as session:
            listed = store.list_evals(session, asked.parent, where, order, asked.page("evals"))
        return [store.eval_of_row(row) for row in listed.rows], listed.next_page_token, listed.total

    def update(self, before: Eval, etag: str, **words: object) -> Eval:
        """Changes display name, description, labels or annotations; raises Conflict ROW_CHANGED."""
        after = replace(before, **words)  # type: ignore[arg-type]
        checks.check_words(after.display_name, after.description, after.labels, after.annotations, "eval")
        check_etag(etag, before.version, before.name)
        with self._database.transaction() as session:
            return store.save_eval(session, before, **words, updated=self._clock.now())

    def delete(self, name: str, etag: str) -> None:
        """Removes an eval with its runs; raises WrongState EVAL_IN_USE while one of them works or a gate needs it."""
        eval_ = self.get(name)
        check_etag(etag, eval_.version, name)
        with self._database.transaction() as session:
            working = [run.name for run in store.unfinished_runs(session) if run.eval == name]
            if working:
                message = f"{len(working)} runs of {name} are not over; cancel them first."
                raise WrongState("EVAL_IN_USE", message, name=name, runs=len(working), run=working[0])
            gates = gate_store.gates_that_use(session, eval_.parent, name)
            if gates:
                message = f"{len(gates)} gates measure by {name}, such as {gates[0]}; change or remove them first."
                raise WrongState("EVAL_IN_USE", message, name=name, gates=len(gates), gate=gates[0])
            store.delete_eval(session, eval_)


def found(thing: T | None, reason: str, name: str) -> T:
    if thing is None:
        raise NotFound(reason, f"{name} does not exist.", name=name)
    return thing


def check_etag(etag: str, version: int, name: str) -> None:
    if etag and etag != str(version):
        raise Conflict("ROW_CHANGED", f"{name} has changed since; read it again and retry.", name=name, etag=etag)
