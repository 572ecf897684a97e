"""Lists as OpenAI pages them: the id of the last item seen as cursor, found by walking the service's own pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

from fastapi import Request
from pydantic import JsonValue

from feinschliff.gateway.errors import ApiError

SERVICE_PAGE_MAX = 1000

Item = dict[str, JsonValue]
T = TypeVar("T")
Order = Literal["asc", "desc"]


class ServicePage(NamedTuple):
    """One page as a service gives it, as our items; an empty token ends the list."""

    items: Sequence[Item]
    next_token: str


Fetch = Callable[[str, int], Awaitable[ServicePage]]
"""(page token, page size) -> page."""


class Query(NamedTuple):
    """What a request asks of a list."""

    after: str
    limit: int
    order: Order


def query_of(request: Request, *, default: int, maximum: int, order: Order = "desc") -> Query:
    """`after`, `limit` and `order` of the request.

    Raises:
        ApiError: 400 naming the parameter that is wrong.
    """
    given = request.query_params
    limit = _limit(given.get("limit", ""), default, maximum)
    return Query(given.get("after", ""), limit, _order(given.get("order"), order))


async def page_of(fetch: Fetch, query: Query) -> Item:
    """The page after the cursor, as the API's list object.

    Raises:
        ApiError: 400 where no item has the cursor's id; page one is never given in its place.
    """
    found: list[Item] = []
    seen_cursor = not query.after
    async for item in _walk(fetch, query.limit + 1):
        if not seen_cursor:
            seen_cursor = item["id"] == query.after
        elif len(found) == query.limit:
            return listed(found, has_more=True)
        else:
            found.append(item)
    if not seen_cursor:
        raise unknown_cursor(query.after)
    return listed(found, has_more=False)


async def all_of(fetch: Fetch) -> list[Item]:
    return [item async for item in _walk(fetch, SERVICE_PAGE_MAX)]


def listed(items: Sequence[Item], *, has_more: bool) -> Item:
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return {"object": "list", "data": list(items), "first_id": first, "last_id": last, "has_more": has_more}


def unknown_cursor(after: str) -> ApiError:
    return ApiError(400, f"No item with the id '{after[:200]}' is in this list.", code="invalid_value", param="after")


async def _walk(fetch: Fetch, wanted: int) -> AsyncIterator[Item]:
    token, size = "", min(wanted, SERVICE_PAGE_MAX)
    while True:
        page = await fetch(token, size)
        for item in page.items:
            yield item
        token, size = page.next_token, SERVICE_PAGE_MAX
        if not token:
            return


def _limit(text: str, default: int, maximum: int) -> int:
    if not text:
        return default
    if not text.isascii() or not text.lstrip("-").isdigit():
        raise ApiError(400, f"'limit' must be an integer, got '{text[:40]}'.", code="invalid_type", param="limit")
    limit = int(text[:20])
    if limit < 1:
        raise ApiError(400, "'limit' must be at least 1.", code="integer_below_min_value", param="limit")
    if limit > maximum:
        message = f"'limit' must be at most {maximum}."
        raise ApiError(400, message, code="integer_above_max_value", param="limit")
    return limit


def _order(text: str | None, default: Order) -> Order:
    match text:
        case None | "":
            return default
        case "asc" | "ascending":
            return "asc"
        case "desc" | "descending":
            return "desc"
    raise ApiError(400, "'order' must be 'asc' or 'desc'.", code="invalid_value", param="order")
