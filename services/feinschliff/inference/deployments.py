"""Deployments as callers see them: made, read, listed, changed, deleted; loading is the reconciler's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from feinschliff.inference import store
from feinschliff.inference.abilities import refuse_unable
from feinschliff.inference.canary import policy_violations
from feinschliff.inference.guards.bounds import guard_violations
from feinschliff.inference.life import NAME, PROJECT, Deployment, EngineName, Route, Spec, State, Status
from feinschliff.inference.requests import sampling_violations
from feinschliff.inference.shares import WEIGHT_MAX, refuse_long_reason, status_after, tell_change, with_weights
from feinschliff.inference.versions import ALIAS, VERSION, Versions
from feinschliff.inference.view import View
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import AlreadyExists, Conflict, FieldViolation, Invalid, NotFound, Refusal, WrongState
from feinschliff.kit.filters import Order, parse_order
from feinschliff.kit.paging import Page
from feinschliff.kit.watch import Wake

ROUTES_MAX = 256
REQUESTS_MAX = 100_000
LABELS_MAX = 64
_ORDERS = ("create_time", "name")


class Listed(NamedTuple):
    deployments: list[Deployment]
    next_token: str
    total: int


class Change(NamedTuple):
    """What a watcher sees: the deployment after a write, or that it is gone."""

    cursor: int
    deployment: Deployment | None


class Deployments:
    """Every method is one short transaction, and the registry's word on routes that are new."""

    def __init__(
        self,
        database: Database,
        versions: Versions,
        check_base: Callable[[str], None],
        check_engine: Callable[[EngineName], None] = lambda engine: None,
        *,
        view: View,
        clock: Clock,
        wake: Wake,
    ) -> None:
        self._view = view
        self._database = database
        self._versions = versions
        self._check_base = check_base
        self._check_engine = check_engine
        self._clock = clock
        self._wake = wake

    def create(
        self, parent: str, deployment_id: str, spec: Spec, *, request_id: str, body_digest: str, validate_only: bool
    ) -> Deployment:
        """A new deployment, PENDING.

        Raises:
            Invalid: DEPLOYMENT_INVALID, BASE_URI_INVALID, REQUEST_ID_REUSED.
            NotFound: MODEL_UNKNOWN, BASE_NOT_FOUND, BASE_NOT_INSTALLED.
            AlreadyExists: DEPLOYMENT_EXISTS.
            Unserved: ENGINE_UNSERVED.
            WrongState: VERSION_TAINTED, OFFLINE.
        """
        project = names.parse(PROJECT, parent, field="parent")["project"]
        name = f"{parent}/deployments/{deployment_id or names.new_id('d-')}"
        names.parse(NAME, name, field="deployment_id")
        with _naming("deployment.engine"):
            self._check_engine(spec.engine)
        self._check(spec, project, known=())
        now = self._clock.now()
        deployment = Deployment(name, spec, Status(), generation=1, version=1, created=now, updated=now)
        if validate_only:
            return deployment

        def make(session: Session) -> str:
            if store.find(session, name) is not None:
                raise AlreadyExists("DEPLOYMENT_EXISTS", f"There is a deployment {name} already.", deployment=name)
            store.insert(session, deployment)
            return name

        with self._database.transaction() as session:
            method = f"CreateDeployment {parent}"
            made = store.LEDGER.once(session, method, request_id, body_digest, lambda: make(session))
            result = _require(session, made)
        return self._published(result)

    def get(self, name: str) -> Deployment:
        """Raises NotFound DEPLOYMENT_NOT_FOUND."""
        names.parse(NAME, name)
        with self._database.reading() as session:
            return _require(session, name)

    def page(self, parent: str, token: str, size: int, filter_text: str, order_by: str) -> Listed:
        names.parse(PROJECT, parent, field="parent")
        order = parse_order(order_by, _ORDERS, Order("create_time", descending=True))
        page = Page.open(token, size, "deployments", parent, filter_text, order_by)
        with self._database.reading() as session:
            found = store.page_of(session, parent, filter_text, order, page)
            total = store.count(session, parent, filter_text)
        shown = found[: page.size]
        more = len(found) > page.size
        return Listed(shown, page.token(*_sort_key(shown[-1], order)) if more else "", total)

    def set_traffic(self, name: str, weights: Mapping[str, float], *, etag: str, reason: str) -> Deployment:
        """Gives the routes these shares, all at once; those left out get none.

        Raises:
            NotFound: DEPLOYMENT_NOT_FOUND.
            Conflict: ETAG_MISMATCH, ROW_CHANGED.
            Invalid: REQUEST_INVALID.
            WrongState: DEPLOYMENT_DELETING.
        """
        refuse_long_reason(reason)
        return self.update(name, etag, lambda before: with_weights(before.spec, weights), reason=reason)

    def update(self, name: str, etag: str, change: Callable[[Deployment], Spec], *, reason: str = "") -> Deployment:
        """Writes what `change` makes of the deployment.

        Raises:
            NotFound: DEPLOYMENT_NOT_FOUND, MODEL_UNKNOWN.
            Conflict: ETAG_MISMATCH, ROW_CHANGED.
            Invalid: DEPLOYMENT_INVALID.
            WrongState: DEPLOYMENT_DELETING, VERSION_TAINTED.
        """
        before = self.get(name)
        _refuse_other_etag(before, etag)
        spec = change(before)
        self._check(spec, before.project, known=before.spec.routes)
        with self._database.transaction() as session:
            now = _require(session, name, lock=True)
            if etag_of(now) != etag_of(before):
                raise Conflict("ETAG_MISMATCH", "Someone else changed the deployment; read it again.", deployment=name)
            if now.status.state is State.DELETING:
                raise WrongState("DEPLOYMENT_DELETING", f"{name} is being deleted.", deployment=name)
            if spec != now.spec:
                moment = self._clock.now()
                store.write_spec(session, now, spec, status_after(now, spec, moment, reason=reason), moment)
            result = _require(session, name)
        tell_change(result, now)
        return self._published(result)

    def delete(self, name: str, etag: str) -> None:
        """Raises NotFound DEPLOYMENT_NOT_FOUND, Conflict ETAG_MISMATCH; deleting twice is fine while it goes on."""
        names.parse(NAME, name)
        with self._database.transaction() as session:
            now = _require(session, name, lock=True)
            _refuse_other_etag(now, etag)
            if now.status.state is not State.DELETING:
                status = now.status.model_copy(update={"state": State.DELETING})
                store.write_status(session, now, status, self._clock.now())
            result = _require(session, name)
        self._published(result)

    def changes(self, name: str, cursor: int) -> list[Change]:
        """The deployment's newest state if it is newer than `cursor`."""
        with self._database.reading() as session:
            deployment = store.find(session, name)
            if deployment is not None:
                return [Change(deployment.version, deployment)] if deployment.version > cursor else []
            buried = store.version_of_deleted(session, name)
        return [Change(buried, None)] if buried is not None and buried > cursor else []

    def is_gone(self, name: str) -> bool:
        with self._database.reading() as session:
            return store.find(session, name) is None

    def _published(self, deployment: Deployment) -> Deployment:
        self._view.put(deployment)
        self._wake.notify()
        return deployment

    def _check(self, spec: Spec, project: str, *, known: tuple[Route, ...]) -> None:
        if wrong := spec_violations(spec, project):
            message = " ".join(violation.description for violation in wrong[:5])
            raise Invalid("DEPLOYMENT_INVALID", message, fields=wrong)
        with _naming("deployment.base_model"):
            self._check_base(spec.base_model)
        served = {route.model_version for route in known}
        for place, route in enumerate(spec.routes):
            if route.model_version not in served:
                with _naming(f"deployment.routes[{place}].model_version"):
                    refuse_unable(spec.engine, self._versions.lookup_for_new(route.model_version))


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Adds the field to a refusal that does not know it."""
    try:
        yield
    except Refusal as refusal:
        if not refusal.fields:
            refusal.fields = (FieldViolation(field, refusal.message, refusal.reason),)
        raise


def etag_of(deployment: Deployment) -> str:
    """Changes with every write of what is wanted; unlike for a later deployment of the same name."""
    return f"{int(deployment.created.timestamp() * 1e6):x}-{deployment.generation}"


def spec_violations(spec: Spec, project: str) -> list[FieldViolation]:
    """Every field that is never valid, with its path."""
    wrong = sampling_violations(spec.defaults, "deployment.defaults")

    def require(fine: bool, field: str, rule: str) -> None:
        if not fine:
            wrong.append(FieldViolation(f"deployment.{field}", f"{field} must be {rule}.", "OUT_OF_RANGE"))

    require(1 <= spec.on_demand_max <= 1024, "on_demand_max", f"1 to 1024, not {spec.on_demand_max}")
    require(0 <= spec.replicas <= 64, "replicas", f"0 to 64, not {spec.replicas}")
    require(spec.context_tokens is None or spec.context_tokens >= 16, "context_tokens", "16 or more")
    fraction = spec.stored_fraction
    require(0 <= fraction <= 1, "logging.stored_fraction", f"0 to 1, not {fraction:g}")
    require(len(spec.display_name) <= 256, "display_name", "at most 256 characters")
    require(len(spec.routes) <= ROUTES_MAX, "routes", f"at most {ROUTES_MAX}, not {len(spec.routes)}")
    fits = spec.requests_max is None or 1 <= spec.requests_max <= REQUESTS_MAX
    require(fits, "requests_max", f"1 to {REQUESTS_MAX}, not {spec.requests_max}")
    if spec.canary is not None:
        wrong += policy_violations(spec.canary, [one.id for one in spec.routes if not one.shadow], "deployment.canary")
    for field, pairs, limit in (("labels", spec.labels, 512), ("annotations", spec.annotations, 4096)):
        fits = all(1 <= len(key) <= 64 and len(value) <= limit for key, value in pairs.items())
        require(fits and len(pairs) <= LABELS_MAX, field, f"at most {LABELS_MAX} pairs of 64 and {limit} characters")
    wrong += guard_violations(spec.guards, "deployment.guards", project)
    return wrong + _route_violations(spec.routes, project)


def _route_violations(routes: tuple[Route, ...], project: str) -> list[FieldViolation]:
    wrong = []
    ids = [route.id for route in routes]
    for place, route in enumerate(routes[:ROUTES_MAX]):
        path = f"deployment.routes[{place}]"
        if not names.matches("{id}", route.id) or ids.index(route.id) != place:
            text = f"Route id {route.id[:80]!r} must be {names.ID_WORDS}, and unique in the deployment."
            wrong.append(FieldViolation(f"{path}.id", text, "NAME_MALFORMED"))
        if not 0 <= route.weight <= WEIGHT_MAX:
            text = f"weight must be 0 to {WEIGHT_MAX}, not {route.weight:g}."
            wrong.append(FieldViolation(f"{path}.weight", text, "OUT_OF_RANGE"))
        is_name = names.matches(VERSION, route.model_version) or names.matches(ALIAS, route.model_version)
        if not is_name or route.model_version.split("/")[1] != project:
            text = f"{route.model_version[:200]!r} is no model version or model@alias of project {project}."
            wrong.append(FieldViolation(f"{path}.model_version", text, "NAME_MALFORMED"))
    return wrong


def _require(session: Session, name: str, *, lock: bool = False) -> Deployment:
    found = store.find(session, name, lock=lock)
    if found is None:
        raise NotFound("DEPLOYMENT_NOT_FOUND", f"There is no deployment {name}.", deployment=name)
    return found


def _refuse_other_etag(deployment: Deployment, etag: str) -> None:
    if etag and etag != etag_of(deployment):
        raise Conflict(
            "ETAG_MISMATCH",
            "Someone else changed the deployment since you read it; read it again.",
            deployment=deployment.name,
            etag=etag,
        )


def _sort_key(deployment: Deployment, order: Order) -> tuple[str, str]:
    value = deployment.created.isoformat() if order.field == "create_time" else deployment.name
    return value, deployment.name
