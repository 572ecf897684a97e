"""The rules of gates: what may be made, changed and removed."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from feinschliff.evaluation import checks, store
from feinschliff.evaluation.drafts import Once
from feinschliff.evaluation.evaluations import NEWEST_FIRST, Listing, check_etag, found
from feinschliff.evaluation.gates import store as gate_store
from feinschliff.evaluation.gates.rules import Rule, check_rules
from feinschliff.evaluation.gates.store import Gate
from feinschliff.evaluation.resources import PROJECT
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import AlreadyExists
from feinschliff.kit.filters import conditions, parse_order

GATE = "projects/{project}/gatePolicies/{gate_policy}"


class GateDraft(NamedTuple):
    """A gate as its maker wants it."""

    parent: str
    gate_id: str
    display_name: str
    rules: Sequence[Rule]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class Gates:
    """Gate policies. Blocking; call it through `offload`."""

    def __init__(self, database: Database, clock: Clock, new_id: Callable[[str], str]) -> None:
        self._database = database
        self._clock = clock
        self._new_id = new_id

    def create(self, draft: GateDraft, once: Once) -> Gate:
        """Makes a gate over evals that exist.

        Raises:
            Invalid: as `check_rules`; REQUEST_ID_REUSED.
            NotFound: EVAL_NOT_FOUND.
            AlreadyExists: GATE_EXISTS.
        """
        names.parse(PROJECT, draft.parent, field="parent")
        gate_id = names.check_id(draft.gate_id, field="gate_policy_id") if draft.gate_id else self._new_id("gate-")
        now = self._clock.now()
        wanted = Gate(
            name=f"{draft.parent}/gatePolicies/{gate_id}",
            parent=draft.parent,
            display_name=draft.display_name or gate_id,
            rules=draft.rules,
            labels=draft.labels,
            annotations=draft.annotations,
            created=now,
            updated=now,
        )

        def make() -> str:
            if not gate_store.insert_gate(session, wanted):
                raise AlreadyExists("GATE_EXISTS", f"{wanted.name} exists.", name=wanted.name)
            return wanted.name

        with self._database.transaction() as session:
            _check(session, wanted)
            name = store.LEDGER.once(session, f"CreateGatePolicy {draft.parent}", *once, make)
            return found(gate_store.get_gate(session, name), "GATE_NOT_FOUND", name)

    def get(self, name: str) -> Gate:
        names.parse(GATE, name)
        with self._database.reading() as session:
            return found(gate_store.get_gate(session, name), "GATE_NOT_FOUND", name)

    def list(self, asked: Listing) -> tuple[builtins.list[Gate], str, int]:
        names.parse(PROJECT, asked.parent, field="parent")
        where = conditions(asked.filter, gate_store.GATE_FIELDS, gate_store.GATE_READERS)
        order = parse_order(asked.order_by, [*gate_store.GATE_ORDERS], NEWEST_FIRST)
        with self._database.reading() as session:
            listed = gate_store.list_gates(session, asked.parent, where, order, asked.page("gates"))
        return [gate_store.gate_of_row(row) for row in listed.rows], listed.next_page_token, listed.total

    def update(self, before: Gate, etag: str, draft: GateDraft) -> Gate:
        """Changes words and rules; verdicts keep the rules they were made by. Raises Conflict ROW_CHANGED."""
        changes: dict[str, object] = {
            "display_name": draft.display_name,
            "rules": draft.rules,
            "labels": draft.labels,
            "annotations": draft.annotations,
        }
        after = replace(before, **changes)  # type: ignore[arg-type]
        check_etag(etag, before.version, before.name)
        with self._database.transaction() as session:
            _check(session, after)
            return gate_store.save_gate(session, before, **changes, updated=self._clock.now())

    def delete(self, name: str, etag: str) -> None:
        """Removes a gate; its verdicts stay."""
        gate = self.get(name)
        check_etag(etag, gate.version, name)
        with self._database.transaction() as session:
            gate_store.delete_gate(session, gate)


def _check(session: Session, gate: Gate) -> None:
    checks.check_words(gate.display_name, "", gate.labels, gate.annotations, "gate_policy")
    check_rules(gate.rules, gate.parent)
    for rule in gate.rules:
        found(store.get_eval(session, rule.eval), "EVAL_NOT_FOUND", rule.eval)
