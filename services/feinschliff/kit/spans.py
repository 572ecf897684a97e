"""Spans: the steps of a trace, told to an OpenTelemetry collector where the settings name one, else only passed on."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Protocol

import grpc

from feinschliff.kit.context import current_trace, set_trace
from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import ENV_PREFIX, Settings
from feinschliff.kit.tracing import Trace, new_trace, parse_traceparent

FLUSH_SECONDS = 3.0
Kind = Literal["server", "client", "internal"]
Attributes = Mapping[str, str | int | float | bool]
_ENDPOINT = re.compile(r"https?://[^/\s]+/?|[^/:\s]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
_OUR_FAULTS = frozenset(  # of a server; with any other code the caller got what it deserved
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class Recording(Protocol):
    """A span that is measured, sampled or not."""

    @property
    def trace(self) -> Trace: ...

    def end(self, name: str, failure: str, attributes: Attributes) -> None: ...


class Recorder(Protocol):
    """Who measures spans; see `kit.otlp`."""

    def begin(self, room: str, name: str, kind: Kind, parent: Trace | None, attributes: Attributes) -> Recording: ...

    def close(self, seconds: float) -> None: ...


class Span:
    """A step: `trace` is what calls made inside it carry on."""

    def __init__(self, trace: Trace, recording: Recording | None = None) -> None:
        self.trace = trace
        self._recording = recording

    def end(self, *, name: str = "", failure: str = "", attributes: Attributes | None = None) -> None:
        """Args: name: a better one than it began with. failure: why it failed; empty where it did not."""
        if self._recording is not None:
            self._recording.end(name, failure, attributes or {})

    def end_call(self, code: grpc.StatusCode, *, reason: str = "") -> None:
        """Ends the span of a gRPC call at its server."""
        self.end(failure=code.name if code in _OUR_FAULTS else "", attributes=_of_end(code, reason))


class _Process:
    recorder: Recorder | None = None
    room = ""


def configure(settings: Settings, room: str) -> None:
    """Says, for the whole process, where spans go.

    Args:
        room: whose the spans are that name none.

    Raises:
        StartError: the endpoint is malformed, or what sends spans to it is not installed.
    """
    _Process.room = room
    _Process.recorder = _recorder(settings) if settings.otlp_endpoint else None


def close() -> None:
    """Sends what is left, for at most `FLUSH_SECONDS`; later spans go nowhere."""
    recorder, _Process.recorder = _Process.recorder, None
    if recorder is not None:
        recorder.close(FLUSH_SECONDS)


def begin_served(room: str, name: str, traceparent: str, *, attributes: Attributes, is_told: bool = True) -> Span:
    """The span of a request that came in; it goes on with the caller's trace, or begins one.

    Args:
        traceparent: what the caller sent, if anything.
        is_told: False for what would only be noise, such as probes.
    """
    above = parse_traceparent(traceparent)
    if _Process.recorder is not None and is_told:
        recording = _Process.recorder.begin(room, name, "server", above, attributes)
        return Span(recording.trace, recording)
    return Span(above.child() if above else new_trace())


def begin_called(room: str, service: str, method: str) -> Span | None:
    """The span of a call to another service; None outside of a trace, and where nobody wants to know."""
    above = current_trace()
    if above is None or _Process.recorder is None:
        return None
    recording = _Process.recorder.begin(
        room or _Process.room, f"{service}/{method}", "client", above, of_call(service, method)
    )
    return Span(recording.trace, recording)


def end_called(span: Span, code: grpc.StatusCode) -> None:
    """Ends the span of a call at its client, for whom every refusal is a failure."""
    span.end(failure="" if code is grpc.StatusCode.OK else code.name, attributes=_of_end(code, ""))


@contextmanager
def span(name: str, *, parent: Trace | None = None, **attributes: str | int | float | bool) -> Iterator[None]:
    """A step of our own around the block, which what runs inside it is part of.

    Args:
        parent: what it belongs to, where that is not what runs now.
    """
    recorder, above = _Process.recorder, current_trace()
    if recorder is None:
        yield
        return
    recording = recorder.begin(_Process.room, name, "internal", parent or above, attributes)
    set_trace(recording.trace)
    failure = ""
    try:
        yield
    except BaseException as error:
        failure = type(error).__name__
        raise
    finally:
        set_trace(above)
        recording.end("", failure, {})


def of_call(service: str, method: str) -> Attributes:
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


def _of_end(code: grpc.StatusCode, reason: str) -> Attributes:
    return {"rpc.grpc.status_code": code.value[0], **({"feinschliff.reason": reason} if reason else {})}


def _recorder(settings: Settings) -> Recorder:
    variable, endpoint = f"{ENV_PREFIX}OTLP_ENDPOINT", settings.otlp_endpoint
    if not _ENDPOINT.fullmatch(endpoint):
        raise StartError([f"{variable}: {endpoint!r} is neither host:port nor an http(s) URL of a host and its port"])
    try:
        from feinschliff.kit.otlp import OtlpRecorder
    except ImportError as error:
        problem = f"{variable}: traces need what the extra `tracing` installs (pip install 'feinschliff[tracing]')"
        raise StartError([f"{problem}: {error}"]) from None
    return OtlpRecorder(endpoint if "://" in endpoint else f"http://{endpoint}", settings.trace_sample_ratio)
