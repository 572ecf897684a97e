"""Lists: what a filter, an order and a page token mean for the columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feinschliff.kit.errors import Invalid
from feinschliff.kit.filters import Order, conditions, parse_order, time_value
from feinschliff.kit.paging import Page

_NEWEST_FIRST = Order("create_time", descending=True)


@dataclass(frozen=True)
class Wish:
    """What a caller wants of a list, as it came."""

    page_size: int = 0
    page_token: str = ""
    filter: str = ""
    order_by: str = ""


@dataclass(frozen=True)
class Asked:
    """A wish that makes sense: which rows, in which order, and which page of them."""

    matching: Sequence[Any]
    order: Order
    page: Page


@dataclass(frozen=True)
class Listing:
    """What can be filtered and sorted by, and the key that breaks ties.

    Columns are the table's own objects; they compare by overloaded operators and are made into SQL by the store.
    """

    filters: Mapping[str, Any]
    orders: Mapping[str, Any]
    key: Sequence[Any]
    readers: Mapping[str, Callable[[str], Any]]

    def ask(self, wish: Wish, parent: str) -> Asked:
        """Raises Invalid: FILTER_INVALID, ORDER_INVALID, PAGE_TOKEN_INVALID, PAGE_SIZE_INVALID."""
        order = parse_order(wish.order_by, list(self.orders), _NEWEST_FIRST)
        page = Page.open(wish.page_token, wish.page_size, parent, wish.filter, wish.order_by)
        return Asked(conditions(wish.filter, self.filters, self.readers), order, page)

    def ordering(self, asked: Asked) -> list[Any]:
        return [column.desc() if asked.order.descending else column.asc() for column in self._sorted(asked)]

    def following(self, asked: Asked) -> list[Any]:
        """The condition that leaves the rows after the last one of the page before; none on the first page."""
        if asked.page.after is None:
            return []
        columns = self._sorted(asked)
        first, *rest = asked.page.after
        seen = [datetime.fromisoformat(str(first)) if asked.order.field in TIMES else first, *rest]
        if len(seen) != len(columns):
            raise Invalid("PAGE_TOKEN_INVALID", "The page token is not one that this service gave out.")
        beyond: Any = None
        for column, value in reversed(list(zip(columns, seen, strict=True))):
            further = column < value if asked.order.descending else column > value
            beyond = further if beyond is None else further | ((column == value) & beyond)
        return [beyond]

    def token(self, asked: Asked, row: Mapping[Any, Any]) -> str:
        """The token for what follows `row`."""
        values = [row[column.name] for column in self._sorted(asked)]
        return asked.page.token(*(value.isoformat() if isinstance(value, datetime) else value for value in values))

    def _sorted(self, asked: Asked) -> list[Any]:
        return [self.orders[asked.order.field], *self.key]


TIMES: Mapping[str, Callable[[str], Any]] = {"create_time": time_value}
