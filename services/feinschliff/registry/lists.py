"""Reading many: models, versions, aliases, moves and exports, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from feinschliff.kit import names
from feinschliff.kit.db import Database
from feinschliff.kit.filters import Order, conditions, parse_order, time_value
from feinschliff.kit.paging import Page
from feinschliff.registry import store
from feinschliff.registry.aliases import ALIAS
from feinschliff.registry.models import MODEL, PROJECT, ModelView, VersionView
from feinschliff.registry.store import (
    ALIASES,
    EXPORTS,
    MODELS,
    MOVES,
    VERSIONS,
    Alias,
    AliasMove,
    Export,
    Model,
    Row,
    Version,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Wish:
    """What a caller wants of a list, as it came."""

    parent: str
    page_size: int = 0
    page_token: str = ""
    filter: str = ""
    order_by: str = ""


@dataclass(frozen=True)
class Listed(Generic[T]):
    items: Sequence[T]
    next_token: str


@dataclass(frozen=True)
class Listing:
    """What one list can be filtered by and how it is sorted: the API's field and our column."""

    columns: Mapping[str, Any]
    readers: Mapping[str, Callable[[str], Any]]
    order: Order
    column: str


MODEL_LIST = Listing(
    {"display_name": MODELS.c.display_name, "create_time": MODELS.c.created, "labels": MODELS.c.labels},
    {"create_time": time_value},
    Order("create_time", descending=True),
    "created",
)
VERSION_LIST = Listing(
    {
        "state": VERSIONS.c.state,
        "kind": VERSIONS.c.kind,
        "base_model": VERSIONS.c.base_model,
        "training_job": VERSIONS.c.training_job,
        "public_name": VERSIONS.c.public_name,
        "create_time": VERSIONS.c.created,
        "labels": VERSIONS.c.labels,
    },
    {
        "create_time": time_value,
        "state": lambda text: text.removeprefix("STATE_").lower(),
        "kind": lambda text: text.removeprefix("KIND_").lower(),
    },
    Order("create_time", descending=True),
    "created",
)
ALIAS_LIST = Listing({"model_version": ALIASES.c.model_version}, {}, Order("name", descending=False), "name")
MOVE_LIST = Listing(
    {"current": MOVES.c.current, "actor": MOVES.c.actor, "time": MOVES.c.time},
    {"time": time_value},
    Order("sequence", descending=True),
    "sequence",
)
EXPORT_LIST = Listing(
    {"state": EXPORTS.c.state, "create_time": EXPORTS.c.created},
    {"create_time": time_value, "state": lambda text: text.removeprefix("STATE_").lower()},
    Order("create_time", descending=True),
    "created",
)


class Lists:
    """Every method raises Invalid for a bad parent, token, filter or order."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def models(self, wish: Wish) -> Listed[ModelView]:
        names.parse(PROJECT, wish.parent, field="parent")
        found = self._page(Model, wish, MODEL_LIST, [MODELS.c.parent == wish.parent])
        with self._database.reading() as session:
            views = [
                ModelView(one, store.latest_version(session, one.name), store.versions_of(session, one.name))
                for one in found.items
            ]
        return Listed(views, found.next_token)

    def versions(self, wish: Wish) -> Listed[VersionView]:
        found = self._page(Version, wish, VERSION_LIST, [_of_parent(VERSIONS, wish.parent)])
        with self._database.reading() as session:
            views = [VersionView(one, store.aliases_of(session, one.name)) for one in found.items]
        return Listed(views, found.next_token)

    def aliases(self, wish: Wish) -> Listed[Alias]:
        names.parse(MODEL, wish.parent, field="parent")
        return self._page(Alias, wish, ALIAS_LIST, [ALIASES.c.model == wish.parent])

    def moves(self, wish: Wish) -> Listed[AliasMove]:
        names.parse(ALIAS, wish.parent, field="parent")
        return self._page(AliasMove, wish, MOVE_LIST, [MOVES.c.alias == wish.parent])

    def exports(self, wish: Wish) -> Listed[Export]:
        return self._page(Export, wish, EXPORT_LIST, [_of_parent(EXPORTS, wish.parent)])

    def _page(self, kind: type[Row], wish: Wish, listing: Listing, where: list[Any]) -> Listed[Row]:
        order = parse_order(wish.order_by, [listing.order.field], listing.order)
        page = Page.open(wish.page_token, wish.page_size, kind.__name__, wish.parent, wish.filter, wish.order_by)
        where = [*where, *conditions(wish.filter, listing.columns, listing.readers)]
        with self._database.reading() as session:
            found = store.page_of(session, kind, page, where, by=listing.column, descending=order.descending)
        token = ""
        if len(found) > page.size:
            last = found[page.size - 1]
            value = getattr(last, listing.column)
            key = value.isoformat() if isinstance(value, datetime) else value
            token = page.token(key, getattr(last, "name", value))
        return Listed(found[: page.size], token)


def _of_parent(table: Any, parent: str) -> Any:
    """What belongs to one model, or, for `projects/{project}/models/-`, to all of the project."""
    project, _, model = parent.partition("/models/")
    if model == "-":
        names.parse(PROJECT, project, field="parent")
        return table.c.project == project
    names.parse(MODEL, parent, field="parent")
    return table.c.model == parent
