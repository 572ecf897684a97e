"""The models that a call may name at present."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feinschliff.inference.abilities import is_able
from feinschliff.inference.engine import Engine
from feinschliff.inference.life import PROJECT, Deployment, Version
from feinschliff.inference.models import Identity, context_of, identity_of
from feinschliff.inference.pool import Pool
from feinschliff.inference.targets import Target, is_host, key_of, targets
from feinschliff.inference.versions import Versions
from feinschliff.inference.view import View
from feinschliff.kit import names
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.kit.filters import Comparison, Order, parse_filter, parse_order
from feinschliff.kit.paging import Page

_FIELDS = ("deployment", "loaded", "model")


class Servable(NamedTuple):
    """A name for `model` of a call, and what would answer."""

    model: str
    deployment: str
    identity: Identity
    loaded: bool
    base_model: str
    context_tokens: int


class Listed(NamedTuple):
    models: list[Servable]
    next_token: str
    total: int


class ServableModels:
    """Reads the deployments, what they hold, and for those that load on demand, the registry."""

    def __init__(self, pool: Pool, view: View, versions: Versions) -> None:
        self._pool = pool
        self._view = view
        self._versions = versions

    def page(self, parent: str, token: str, size: int, filter_text: str, order_by: str) -> Listed:
        """One page; models of a base that is not loaded yet are left out.

        Raises:
            Unavailable: the registry does not answer, and a deployment loads on demand.
        """
        project = names.parse(PROJECT, parent, field="parent")["project"]
        order = parse_order(order_by, ["model"], Order("model", descending=False))
        page = Page.open(token, size, "servable", parent, filter_text, order_by)
        comparisons = parse_filter(filter_text)
        found = sorted(
            (one for one in self._all(project) if all(_fits(one, each) for each in comparisons)),
            key=lambda one: (one.model, one.deployment),
            reverse=order.descending,
        )
        rest = [one for one in found if page.after is None or _is_behind(one, page.after, order)]
        shown = rest[: page.size]
        more = len(rest) > page.size
        return Listed(shown, page.token(shown[-1].model, shown[-1].deployment) if more else "", len(found))

    def _all(self, project: str) -> list[Servable]:
        mine = [one for one in self._view.all() if one.project == project and one.is_wanted]
        on_demand = self._versions.of_project(project) if any(one.spec.on_demand for one in mine) else []
        return [servable for one in mine for servable in self._of(one, on_demand)]

    def _of(self, deployment: Deployment, on_demand: Sequence[Version]) -> list[Servable]:
        key = key_of(deployment)
        engine = self._pool.engine(key) if key else None
        if key is None or engine is None:
            return []
        named = {deployment.spec.base_model: Target(deployment, None)}
        for target in targets(deployment.name, [deployment]):
            named[deployment.name] = target
        for route in deployment.spec.routes:
            for target in targets(route.model_version, [deployment]):
                named[route.model_version] = target
                if target.version is not None:
                    named[target.version.name] = target
        for version in on_demand:
            can = is_host(deployment, version) and is_able(deployment.spec.engine, version)
            if can and version.base_digest == key.digest:
                named.setdefault(version.name, Target(deployment, version))
        held = {"", *self._pool.loaded_adapters(key)}
        return [_servable(name, target, engine, held) for name, target in named.items()]


def _servable(model: str, target: Target, engine: Engine, held: set[str]) -> Servable:
    deployment, version = target.deployment, target.version
    digest = version.adapter_digest if version else ""
    return Servable(
        model=model,
        deployment=deployment.name,
        identity=identity_of(engine, deployment, version),
        loaded=digest in held,
        base_model=deployment.spec.base_model,
        context_tokens=context_of(engine, deployment, digest),
    )


def _fits(one: Servable, comparison: Comparison) -> bool:
    if comparison.field not in _FIELDS or comparison.op not in ("=", "!="):
        message = f"The filter compares {', '.join(_FIELDS)} by = or !=, not {comparison.field} {comparison.op}."
        raise Invalid("FILTER_INVALID", message, fields=[FieldViolation("filter", message, "FILTER_INVALID")])
    value = getattr(one, comparison.field)
    text = str(value).lower() if isinstance(value, bool) else value
    return bool((text == comparison.value) == (comparison.op == "="))


def _is_behind(one: Servable, after: Sequence[str | int | float], order: Order) -> bool:
    key, last = (one.model, one.deployment), (str(after[0]), str(after[1]))
    return key < last if order.descending else key > last
