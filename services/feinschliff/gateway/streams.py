"""Answers that end when their reader goes: work is cancelled with the connection, streams are server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientGone(Exception):
    """The caller closed the connection before it had its answer."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; it is cancelled when the caller goes. The request's body must have been read.

    Raises:
        ClientGone: nobody waits for the result any more.
    """
    return await _first(work, request.receive)


class Streamed(Response):
    """A body that is sent as it comes; its source is closed, and with it the call behind it, when the reader goes."""

    def __init__(
        self, pieces: AsyncIterator[bytes], *, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(media_type=media_type, headers=dict(headers or {}))
        if "content-length" not in (headers or {}):
            del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def pour() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with aclosing(self._pieces) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await _first(pour(), receive)


def event_stream(events: AsyncIterator[bytes], *, headers: Mapping[str, str] | None = None) -> Streamed:
    """Server-sent events; proxies are asked not to hold them back."""
    ours = {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
    return Streamed(events, media_type="text/event-stream", headers=ours)


def data_event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"


async def _first(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
