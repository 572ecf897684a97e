"""Follows long work to its end through broken connections, by cursor: nothing is missed, nothing comes twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import grpc

from feinschliff.cli.services import refusal_of

PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.5
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN}


class Step(Protocol):
    @property
    def cursor(self) -> int: ...


R = TypeVar("R", bound=Step)


def follow(
    watch: Callable[[int], Iterable[R]],
    is_final: Callable[[R], bool],
    *,
    cursor: int = 0,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[R]:
    """What `watch(cursor)` streams, until a stream ends in which, or before which, something final came.

    Args:
        watch: opens the stream after a cursor.
        is_final: whether this says that the work is over; what it left behind may still follow.
        patience_seconds: how long the service may be away; then what it refused last is raised.
    """
    last_heard = time.monotonic()
    is_over = False
    while True:
        stream = watch(cursor)
        try:
            for response in stream:
                cursor, last_heard = response.cursor, time.monotonic()
                is_over = is_over or is_final(response)
                yield response
            if is_over:
                return
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            if refusal.code not in _PASSING or time.monotonic() - last_heard > patience_seconds:
                raise refusal from error
        finally:
            _cancel(stream)
        time.sleep(_PAUSE_SECONDS)


def _cancel(stream: object) -> None:
    """Tells the service that nobody listens any more; over already is fine."""
    if isinstance(stream, grpc.RpcContext):
        stream.cancel()
