"""What goes out with every call: request id, trace, deadline, an id for creates; and what is counted."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from feinschliff.kit import context as ctx
from feinschliff.kit import spans
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.spans import Span
from feinschliff.kit.tracing import TRACEPARENT_KEY, Trace


class Departure:
    """One call on its way out: what is counted and told of it, at its start and its end."""

    def __init__(self, metrics: Metrics | None, span: Span | None, labels: tuple[str, str, str]) -> None:
        self._metrics = metrics
        self._span = span
        self._labels = labels
        self._begun_seconds = time.monotonic()
        if metrics is not None:
            metrics.counter("grpc_client_started_total").labels(*labels).inc()

    @property
    def is_followed(self) -> bool:
        """Whether anybody wants to know of its end."""
        return self._metrics is not None or self._span is not None

    @property
    def trace(self) -> Trace | None:
        return ctx.current_trace() if self._span is None else self._span.trace

    def ended(self, code: grpc.StatusCode | None) -> None:
        known = code or grpc.StatusCode.UNKNOWN
        if self._span is not None:
            spans.end_called(self._span, known)
        if self._metrics is not None:
            seconds = time.monotonic() - self._begun_seconds
            self._metrics.counter("grpc_client_handled_total").labels(*self._labels, known.name).inc()
            self._metrics.histogram("grpc_client_handling_seconds").labels(*self._labels).observe(seconds)


class Outgoing(NamedTuple):
    """How calls of one channel leave."""

    name: str
    metrics: Metrics | None
    timeout_seconds: float

    def timeout(self, given_seconds: float | None, *, is_unary: bool) -> float | None:
        """The call's own deadline or the default, but never later than that of the call being answered."""
        wanted = given_seconds if given_seconds is not None else (self.timeout_seconds if is_unary else None)
        until = ctx.current_deadline()
        if until is None:
            return wanted
        left_seconds = max(until - time.monotonic(), 0.001)
        return left_seconds if wanted is None else min(wanted, left_seconds)

    def departs(self, kind: str, method: str | bytes) -> Departure:
        """A call that begins now."""
        text = method.decode() if isinstance(method, bytes) else method
        service, _, name = text.strip("/").partition("/")
        room = "" if self.metrics is None else self.metrics.room
        return Departure(self.metrics, spans.begin_called(room, service, name), (kind, service, name))


def metadata_out(given: Any, trace: Trace | None) -> list[tuple[str, str | bytes]]:
    """The caller's metadata, with request id and trace unless they are there."""
    pairs = list(given or ())
    keys = {key for key, _ in pairs}
    if ctx.REQUEST_ID_KEY not in keys:
        pairs.append((ctx.REQUEST_ID_KEY, ctx.current_request_id() or ctx.new_request_id()))
    if trace is not None and TRACEPARENT_KEY not in keys:
        pairs.append((TRACEPARENT_KEY, trace.header()))
    return pairs


def with_request_id(request: Any) -> Any:
    """The request, with a new `request_id` where it has that field and leaves it empty: so it can be repeated."""
    if not isinstance(request, Message) or "request_id" not in request.DESCRIPTOR.fields_by_name:
        return request
    if request.request_id:  # type: ignore[attr-defined]
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = uuid.uuid4().hex  # type: ignore[attr-defined]
    return copy


def aio_interceptors(outgoing: Outgoing) -> Sequence[grpc.aio.ClientInterceptor]:
    return (_UnaryUnary(outgoing), _UnaryStream(outgoing), _StreamUnary(outgoing), _StreamStream(outgoing))


def sync_interceptor(outgoing: Outgoing) -> "_Sync":
    return _Sync(outgoing)


class _Aio:
    kind = ""
    is_unary = False

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._counting: set[asyncio.Task[None]] = set()

    async def _call(self, continuation: Callable[..., Awaitable[Any]], details: Any, request: Any) -> Any:
        departure = self._outgoing.departs(self.kind, details.method)
        sent = grpc.aio.ClientCallDetails(
            details.method,
            self._outgoing.timeout(details.timeout, is_unary=self.is_unary),
            grpc.aio.Metadata(*metadata_out(details.metadata, departure.trace)),
            details.credentials,
            details.wait_for_ready,
        )
        call = await continuation(sent, request)
        if departure.is_followed:
            call.add_done_callback(lambda done: self._keep(asyncio.ensure_future(_end(done, departure))))
        return call

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)


class _UnaryUnary(_Aio, grpc.aio.UnaryUnaryClientInterceptor):
    kind, is_unary = "unary", True

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._call(continuation, client_call_details, with_request_id(request))


class _UnaryStream(_Aio, grpc.aio.UnaryStreamClientInterceptor):
    kind = "server_stream"

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._call(continuation, client_call_details, with_request_id(request))


class _StreamUnary(_Aio, grpc.aio.StreamUnaryClientInterceptor):
    kind = "client_stream"

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._call(continuation, client_call_details, request_iterator)


class _StreamStream(_Aio, grpc.aio.StreamStreamClientInterceptor):
    kind = "bidi_stream"

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._call(continuation, client_call_details, request_iterator)


class _SyncDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Sync(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._call(continuation, client_call_details, with_request_id(request), "unary")

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._call(continuation, client_call_details, with_request_id(request), "server_stream")

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._call(continuation, client_call_details, request_iterator, "client_stream")

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._call(continuation, client_call_details, request_iterator, "bidi_stream")

    def _call(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any, kind: str) -> Any:
        departure = self._outgoing.departs(kind, details.method)
        sent = _SyncDetails(
            details.method,
            self._outgoing.timeout(details.timeout, is_unary=kind == "unary"),
            metadata_out(details.metadata, departure.trace),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        call = continuation(sent, request)
        if departure.is_followed:
            call.add_done_callback(lambda done: departure.ended(done.code()))
        return call


async def _end(call: grpc.aio.Call, departure: Departure) -> None:
    departure.ended(await call.code())
