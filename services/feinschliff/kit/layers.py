"""The layers of the call chain, one context manager each."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from feinschliff.kit import context as ctx
from feinschliff.kit import spans
from feinschliff.kit.errors import (
    Cancelled,
    FieldViolation,
    Internal,
    Invalid,
    Refusal,
    TimedOut,
    Unserved,
    from_rpc_error,
    to_status,
)
from feinschliff.kit.fields import clear_output_only, missing_required
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.tracing import TRACEPARENT_KEY

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_PASSED_ON = (  # of what another service refused: the caller may try again later, whoever was in the way
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_INFRASTRUCTURE = ("grpc.health.v1.", "grpc.reflection.")


def is_watch(method: str) -> bool:
    """Whether a call, by its path, goes on until its client leaves."""
    service, _, name = method.strip("/").partition("/")
    return name.startswith("Watch") or service.startswith("grpc.reflection.")


class Call:
    """One call on its way through the layers."""

    def __init__(self, method: str, kind: str, context: Context, metrics: Metrics, *, is_standing: bool) -> None:
        self.service, _, self.method = method.strip("/").partition("/")
        self.kind = kind
        self.is_standing = is_standing
        self.context = context
        self.metrics = metrics
        self.code = grpc.StatusCode.OK
        self.is_greeted = False
        self.refusal: Refusal | None = None
        self.fault: BaseException | None = None
        self.started_seconds = time.monotonic()
        self._labels = (kind, self.service, self.method)
        self._sent = metrics.counter("grpc_server_msg_sent_total").labels(*self._labels)
        self._received = metrics.counter("grpc_server_msg_received_total").labels(*self._labels)

    @property
    def labels(self) -> tuple[str, str, str]:
        return self._labels

    @property
    def is_infrastructure(self) -> bool:
        return self.service.startswith(_INFRASTRUCTURE)

    def seconds(self) -> float:
        return time.monotonic() - self.started_seconds

    def count_sent(self) -> None:
        self._sent.inc()

    def count_received(self) -> None:
        self._received.inc()


@contextmanager
def traced(call: Call) -> Iterator[None]:
    """Takes over the caller's request id and trace, or makes them."""
    sent = {str(key): value for key, value in call.context.invocation_metadata() or ()}
    request_id, parent = str(sent.get(ctx.REQUEST_ID_KEY, "")), str(sent.get(TRACEPARENT_KEY, ""))
    ctx.set_request_id(request_id if _REQUEST_ID.fullmatch(request_id) else ctx.new_request_id())
    span = spans.begin_served(
        call.metrics.room,
        f"{call.service}/{call.method}",
        parent,
        attributes=spans.of_call(call.service, call.method),
        is_told=not call.is_infrastructure,
    )
    ctx.set_trace(span.trace)
    ctx.add_log_fields(room=call.metrics.room)
    try:
        yield
    finally:
        span.end_call(call.code, reason=call.refusal.reason if call.refusal else "")


@contextmanager
def measured(call: Call) -> Iterator[None]:
    metrics = call.metrics
    metrics.counter("grpc_server_started_total").labels(*call.labels).inc()
    try:
        yield
    finally:
        metrics.counter("grpc_server_handled_total").labels(*call.labels, call.code.name).inc()
        if not call.is_standing:
            metrics.histogram("grpc_server_handling_seconds").labels(*call.labels).observe(call.seconds())
        if call.refusal is not None:
            metrics.counter("feinschliff_room_refusals_total").labels(metrics.room, call.refusal.reason).inc()


@contextmanager
def logged(call: Call) -> Iterator[None]:
    """One line per call, at its end; a fault of ours has its traceback on that line."""
    try:
        yield
    finally:
        level = logging.DEBUG if call.is_infrastructure else logging.INFO
        extra: dict[str, object] = {
            "method": f"{call.service}/{call.method}",
            "code": call.code.name,
            "seconds": round(call.seconds(), 6),
        }
        if call.refusal is not None:
            extra |= {"reason": call.refusal.reason, "refusal": call.refusal.message}
        fault = call.fault if call.code is grpc.StatusCode.INTERNAL else None
        if fault is not None and call.refusal is not None:
            level, extra["error_id"] = logging.ERROR, call.refusal.metadata.get("error_id", "")
        log.log(level, "call", extra=extra, exc_info=fault)


@asynccontextmanager
async def refusing(call: Call) -> AsyncIterator[None]:
    """Turns what a handler raises into a status with details."""
    try:
        yield
        call.code = _code_of(call.context)
    except asyncio.CancelledError:
        left_seconds = call.context.time_remaining()
        is_late = left_seconds is not None and left_seconds <= 0
        call.code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
        raise
    except grpc.aio.AbortError:
        call.code = _code_of(call.context)
        raise
    except grpc.aio.InternalError as error:  # sending failed: nobody is there to be told
        call.code = grpc.StatusCode.CANCELLED
        raise asyncio.CancelledError from error
    except Refusal as refusal:
        if isinstance(refusal, Internal):
            call.fault = refusal
            refusal.metadata["error_id"] = refusal.metadata.get("error_id") or _error_id()
        await _abort(call, refusal)
    except grpc.RpcError as error:
        call.fault = error
        theirs = from_rpc_error(error)
        await _abort(call, theirs if theirs.code in _PASSED_ON else _internal(call))
    except NotImplementedError as error:
        if _code_of(call.context) is grpc.StatusCode.UNIMPLEMENTED:
            await _abort(call, _unserved(call))
        call.fault = error
        await _abort(call, _internal(call))
    except Exception as error:
        call.fault = error
        await _abort(call, _internal(call))


@asynccontextmanager
async def deadline(call: Call, default_seconds: float | None) -> AsyncIterator[None]:
    """Makes the call's deadline known to what it calls; one that brings none gets the default, if there is one."""
    left_seconds = call.context.time_remaining()
    own_seconds = default_seconds if left_seconds is None else None
    whole_seconds = left_seconds if own_seconds is None else own_seconds
    limit = ctx.Deadline(None if whole_seconds is None else time.monotonic() + whole_seconds)
    ctx.set_deadline(limit)
    try:
        async with asyncio.timeout(own_seconds) as timer:
            yield
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise TimedOut(
            "DEADLINE_EXCEEDED",
            f"The call brought no deadline and did not end within the default of {own_seconds:g} s.",
            advice=["Send a deadline that fits the work; check whether it happened before you repeat it."],
            seconds=own_seconds,
        ) from error
    finally:
        limit.is_over = True


def decoded(read: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return read(raw)
    except DecodeError as error:
        raise Invalid("REQUEST_MALFORMED", "The request's bytes are not a message of this method.") from error


def received(call: Call, message: Any) -> Any:
    """Counts a request and holds it to its field options."""
    call.count_received()
    if not isinstance(message, Message) or call.is_infrastructure:
        return message
    clear_output_only(message)
    missing = missing_required(message)
    if missing:
        raise Invalid(
            "FIELDS_REQUIRED",
            f"Required and not set: {', '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}.",
            fields=[FieldViolation(path, "Required and not set.", "FIELDS_REQUIRED") for path in missing],
            fields_missing=",".join(missing[:10]),
        )
    return message


def received_later(call: Call, message: Any) -> Any:
    """The same for a stream's later messages, of which nothing is required."""
    call.count_received()
    if isinstance(message, Message) and not call.is_infrastructure:
        clear_output_only(message)
    return message


async def greet(call: Call) -> None:
    """Sends the request id, once; not before there is an answer, because headers end a client's right to retry."""
    if not call.is_greeted:
        call.is_greeted = True
        await call.context.send_initial_metadata(((ctx.REQUEST_ID_KEY, ctx.current_request_id()),))


async def still_there(call: Call) -> None:
    """Raises Cancelled where a request stream ended because its client left.

    gRPC shows a stream that broke off as one that ended. Sending tells them apart: it fails on a broken one.
    """
    try:
        await greet(call)
    except (grpc.aio.BaseError, asyncio.CancelledError, RuntimeError) as error:
        raise Cancelled("CALL_CANCELLED", "The client left before its stream ended.") from error


async def _abort(call: Call, refusal: Refusal) -> None:
    call.refusal, call.code = refusal, refusal.code
    status = rpc_status.to_status(to_status(refusal))
    trailers = (
        *cast(tuple[tuple[str, bytes], ...], status.trailing_metadata),
        (ctx.REQUEST_ID_KEY, ctx.current_request_id()),
    )
    await call.context.abort_with_status(status._replace(trailing_metadata=trailers))


def _unserved(call: Call) -> Unserved:
    method = f"{call.service}/{call.method}"
    return Unserved(
        "METHOD_UNSERVED",
        f"{method} is part of the API, but this version does not serve it yet.",
        advice=["Use a version that serves it; the change log names what each one added."],
        method=method,
    )


def _error_id() -> str:
    return uuid.uuid4().hex[:12]


def _internal(call: Call) -> Internal:
    error_id = _error_id()
    return Internal(
        "INTERNAL",
        f"A fault of the service; its log has the details under error id {error_id}.",
        advice=["Report the error id with the request id."],
        error_id=error_id,
    )


def _code_of(context: Context) -> grpc.StatusCode:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES.get(code or 0, grpc.StatusCode.UNKNOWN)
