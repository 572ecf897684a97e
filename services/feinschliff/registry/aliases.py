"""Names that point at versions: moved with a reason, every move kept, the last one undone by one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import FieldViolation, Invalid, NotFound, Refusal, Unserved, WrongState
from feinschliff.kit.metrics import Metrics
from feinschliff.registry import lineage, store
from feinschliff.registry.models import MODEL, VERSION, Asked, check_etag
from feinschliff.registry.protection import Binding, VerdictSeen, check_bound, check_passed
from feinschliff.registry.store import LEDGER, Alias, AliasMove, Edge, Model, Version

ALIAS = MODEL + "/aliases/{alias}"


@dataclass(frozen=True)
class Wish:
    """Where an alias shall point, and why."""

    name: str
    model_version: str
    reason: str = ""
    verdict: str = ""
    approval: str = ""
    etag: str = ""


class Aliases:
    """Every method is one use case and one short transaction.

    `verdicts` asks evaluation; it raises what evaluation refuses with, and is never called inside a transaction.
    """

    def __init__(
        self, database: Database, metrics: Metrics, *, clock: Clock, verdicts: Callable[[str], VerdictSeen]
    ) -> None:
        self._verdicts = verdicts
        self._database = database
        self._metrics = metrics
        self._clock = clock

    def set(self, wish: Wish, asked: Asked, actor: str, *, validate_only: bool = False) -> Alias:
        """Makes or moves an alias.

        Raises:
            NotFound: MODEL_NOT_FOUND, MODEL_VERSION_NOT_FOUND; VERDICT_NOT_FOUND, from evaluation.
            Invalid: ALIAS_CROSSES_MODELS, VERDICT_OF_ANOTHER_VERSION.
            WrongState: GATE_REQUIRED where the alias is protected and no verdict is named, VERDICT_NOT_PASSED,
                VERDICT_OUTDATED; VERDICT_OF_ANOTHER_GATE, VERDICT_OF_ANOTHER_BASELINE where the alias names its gate.
            Unserved: APPROVALS_UNSERVED for a protected alias with an approval in place of a verdict.
            Unavailable: evaluation cannot be asked about the verdict.
            Conflict: ROW_CHANGED where the etag is not the alias's.
        """
        self._check(wish)
        seen = self._verdicts(wish.verdict) if wish.verdict else None
        if seen is not None:
            check_passed(wish.verdict, wish.model_version, seen)
        with self._database.transaction() as session:
            model = self._check_rows(session, wish)
            if validate_only:
                self._check_bound(session, model, wish, seen)
                now = self._clock.now()
                known = store.find(session, Alias, wish.name)
                created = known.created if known else now
                return Alias(
                    wish.name, _model_of(wish.name), wish.model_version, wish.reason, wish.verdict, created, now
                )

            def make() -> str:
                self._check_bound(session, model, wish, seen)
                self._point(session, wish, actor, rollback=False)
                return wish.name

            LEDGER.once(session, f"SetAlias {wish.name}", asked.request_id, asked.body_digest, make)
            return _alias(session, wish.name)

    def get(self, name: str) -> Alias:
        """Raises NotFound ALIAS_NOT_FOUND."""
        names.parse(ALIAS, name)
        with self._database.reading() as session:
            return _alias(session, name)

    def delete(self, name: str, etag: str) -> None:
        names.parse(ALIAS, name)
        with self._database.transaction() as session:
            alias = _alias(session, name)
            check_etag(etag, alias.version, name)
            store.delete(session, alias)
            store.delete_edges(session, name, lineage.POINTS_TO)
        self._metrics.counter("feinschliff_registry_alias_moves_total").labels("removed").inc()

    def roll_back(self, name: str, reason: str, etag: str, asked: Asked, actor: str) -> Alias:
        """Points the alias back to where it was before its last move.

        A protected alias goes back by the verdict that once let it point there, so nobody need be asked in an outage.

        Raises:
            WrongState: ALIAS_HAS_NO_PAST; GATE_REQUIRED where no verdict ever spoke for that version here.
        """
        names.parse(ALIAS, name)
        with self._database.transaction() as session:

            def make() -> str:
                alias = _alias(session, name)
                last = store.last_move(session, name)
                if last is None or not last.previous:
                    message = f"{name} has pointed nowhere else; there is nothing to go back to."
                    raise WrongState("ALIAS_HAS_NO_PAST", message, alias=name)
                verdict = store.verdict_for(session, name, last.previous)
                wish = Wish(name, last.previous, reason, verdict, etag=etag or str(alias.version))
                self._check_rows(session, wish)
                self._point(session, wish, actor, rollback=True)
                return name

            LEDGER.once(session, f"RollbackAlias {name}", asked.request_id, asked.body_digest, make)
            return _alias(session, name)

    def _check(self, wish: Wish) -> None:
        ids = names.parse(ALIAS, wish.name, field="alias.name")
        version = names.parse(VERSION, wish.model_version, field="alias.model_version")
        if (ids["project"], ids["model"]) != (version["project"], version["model"]):
            message = f"{wish.name} can only point to versions of its own model."
            field = FieldViolation("alias.model_version", message, "ALIAS_CROSSES_MODELS")
            raise Invalid("ALIAS_CROSSES_MODELS", message, fields=[field])

    def _check_rows(self, session: Session, wish: Wish) -> Model:
        model = store.find(session, Model, _model_of(wish.name))
        if model is None:
            raise NotFound("MODEL_NOT_FOUND", f"There is no model {_model_of(wish.name)}.", model=_model_of(wish.name))
        if store.find(session, Version, wish.model_version) is None:
            message = f"There is no model version {wish.model_version}."
            raise NotFound("MODEL_VERSION_NOT_FOUND", message, model_version=wish.model_version)
        alias = wish.name.rsplit("/", 1)[1]
        if not wish.verdict and (alias in model.protected_aliases or alias in model.alias_gates):
            raise _unspoken_for(wish, _binding(session, model, wish))
        return model

    def _check_bound(self, session: Session, model: Model, wish: Wish, seen: VerdictSeen | None) -> None:
        """What the alias points to may change until the transaction, so only there it is known what to compare with."""
        if seen is None:
            return
        alias = store.find(session, Alias, wish.name)
        is_there = alias is not None and alias.model_version == wish.model_version  # and cannot be better than itself
        compares = seen.compares and not is_there
        check_bound(wish.verdict, wish.model_version, seen._replace(compares=compares), _binding(session, model, wish))

    def _point(self, session: Session, wish: Wish, actor: str, *, rollback: bool) -> None:
        now = self._clock.now()
        alias = store.find(session, Alias, wish.name)
        previous = alias.model_version if alias else ""
        if alias is None:
            check_etag(wish.etag, 0, wish.name)
            past = store.last_move(session, wish.name)
            moves = past.sequence + 1 if past else 1
            alias = Alias(
                wish.name, _model_of(wish.name), wish.model_version, wish.reason, wish.verdict, now, now, moves
            )
            store.insert(session, alias)
        else:
            check_etag(wish.etag, alias.version, wish.name)
            alias = store.save(
                session,
                alias,
                model_version=wish.model_version,
                reason=wish.reason,
                verdict=wish.verdict,
                moves=alias.moves + 1,
                updated=now,
            )
        move = AliasMove(
            wish.name, alias.moves, previous, wish.model_version, wish.reason, wish.verdict, actor, rollback, now
        )
        store.insert(session, move)
        store.delete_edges(session, wish.name, lineage.POINTS_TO)
        store.put_edges(session, [Edge(wish.model_version, wish.name, lineage.POINTS_TO)])
        act = "moved" if previous else "set"
        self._metrics.counter("feinschliff_registry_alias_moves_total").labels(act).inc()


def _binding(session: Session, model: Model, wish: Wish) -> Binding:
    """Who must speak for the move, and what they must have compared the version with.

    That is what the alias points to; where it is gone, what it last pointed to; where it is new, the version's base.
    """
    alias = store.find(session, Alias, wish.name)
    past = store.last_move(session, wish.name)
    last = alias.model_version if alias else past.current if past else ""
    baseline = last if last and last != wish.model_version and store.find(session, Version, last) else ""
    if not baseline:
        version = store.find(session, Version, wish.model_version)
        baseline = version.base_model if version else ""
    return Binding(model.alias_gates.get(wish.name.rsplit("/", 1)[1], ""), baseline)


def _unspoken_for(wish: Wish, binding: Binding) -> Refusal:
    if wish.approval:
        message = f"{wish.name} is protected, and approvals are not served; name a passed verdict."
        return Unserved("APPROVALS_UNSERVED", message, alias=wish.name)
    gate = f" of {binding.gate} against {binding.baseline}" if binding.gate else ""
    message = f"{wish.name} is protected: it points to {wish.model_version} only with a passed verdict{gate} about it."
    advice = binding.advice(wish.model_version)
    values: dict[str, Any] = {"alias": wish.name, "model_version": wish.model_version}
    if binding.gate:
        values |= {"gate": binding.gate, "baseline": binding.baseline}
    return WrongState("GATE_REQUIRED", message, advice=advice, **values)


def _model_of(alias: str) -> str:
    return alias.rsplit("/aliases/", 1)[0]


def _alias(session: Session, name: str) -> Alias:
    alias = store.find(session, Alias, name)
    if alias is None:
        raise NotFound("ALIAS_NOT_FOUND", f"There is no alias {name}.", alias=name)
    return alias
