"""What follows a call through tasks and threads: request id, trace, room, deadline."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType

from feinschliff.kit.tracing import Trace

REQUEST_ID_KEY = "x-request-id"

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_trace: ContextVar[Trace | None] = ContextVar("trace", default=None)
_deadline: ContextVar["Deadline | None"] = ContextVar("deadline", default=None)
_fields: ContextVar[Mapping[str, object]] = ContextVar("fields", default=MappingProxyType({}))


@dataclass
class Deadline:
    """When a call must have ended, on `time.monotonic`, and whether it has."""

    moment: float | None
    is_over: bool = False


def current_request_id() -> str:
    """The id of the call that is being answered; empty outside of one."""
    return _request_id.get()


def current_trace() -> Trace | None:
    return _trace.get()


def current_traceparent() -> str:
    """Where we are in a trace, to be kept with work that goes on later, as a header; empty outside of one."""
    trace = _trace.get()
    return "" if trace is None else trace.header()


def current_deadline() -> float | None:
    """The moment on `time.monotonic` by which the call must have ended; None if it has no deadline.

    Work that a call leaves behind is free of it once the call has ended.
    """
    deadline = _deadline.get()
    return None if deadline is None or deadline.is_over else deadline.moment


def log_fields() -> Mapping[str, object]:
    return _fields.get()


def set_request_id(request_id: str) -> None:
    _request_id.set(request_id)


def set_trace(trace: Trace | None) -> None:
    _trace.set(trace)


def set_deadline(deadline: Deadline) -> None:
    _deadline.set(deadline)


def new_request_id() -> str:
    return uuid.uuid4().hex


def add_log_fields(**fields: object) -> None:
    """Puts fields on every log line of this task and of what it starts, such as room and job."""
    _fields.set({**_fields.get(), **fields})


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Puts fields on every log line inside the block."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


@contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Work that is not a call, such as a reconciler's turn for one job, under that job's request id."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)
