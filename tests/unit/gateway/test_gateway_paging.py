"""Paging by the id of the last item seen, over a service's own pages."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.gateway.errors import ApiError
from feinschliff.gateway.pages import Item, Query, ServicePage, page_of


def ask(items: list[Item], per_page: int, query: Query) -> Item:
    """A service that gives `per_page` items a page, whatever it is asked for; some of its pages may be empty."""

    async def fetch(token: str, size: int) -> ServicePage:
        start = int(token or 0)
        end = start + per_page
        return ServicePage(items[start:end], str(end) if end < len(items) else "")

    return asyncio.run(page_of(fetch, query))


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 12), st.integers(1, 40))
def test_walking_by_cursor_gives_every_item_once(count: int, per_page: int, limit: int) -> None:
    items: list[Item] = [{"id": f"i{number}"} for number in range(count)]
    seen: list[object] = []
    after, has_more = "", True
    while has_more:
        page = ask(items, per_page, Query(after, limit, "desc"))
        data = page["data"]
        assert isinstance(data, list)
        assert len(data) <= limit
        seen += data
        after, has_more = str(page["last_id"]), bool(page["has_more"])
    assert seen == items


def test_a_list_names_its_first_and_last_item() -> None:
    items: list[Item] = [{"id": "a"}, {"id": "b"}]
    assert ask(items, 10, Query("", 2, "desc")) == {
        "object": "list",
        "data": items,
        "first_id": "a",
        "last_id": "b",
        "has_more": False,
    }
    assert ask([], 10, Query("", 2, "desc"))["first_id"] is None


@pytest.mark.parametrize("count", [0, 5])
def test_a_cursor_that_is_nowhere_is_refused(count: int) -> None:
    with pytest.raises(ApiError) as caught:
        ask([{"id": f"i{number}"} for number in range(count)], 2, Query("gone", 2, "desc"))
    assert (caught.value.status, caught.value.param) == (400, "after")
