"""Reads a list to its end, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from feinschliff.cli.services import refusals

ITEMS_MAX = 10_000


class Query(Protocol):
    page_token: str


class Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


Q = TypeVar("Q", bound=Query)
P = TypeVar("P", bound=Page)
T = TypeVar("T")


def every(call: Callable[[Q], P], query: Q, items_of: Callable[[P], Iterable[T]]) -> list[T]:
    """All items, in the order of the service; at most 10000."""
    found: list[T] = []
    while len(found) < ITEMS_MAX:
        with refusals():
            page = call(query)
        found += items_of(page)
        if not page.next_page_token:
            break
        query.page_token = page.next_page_token
    return found[:ITEMS_MAX]
