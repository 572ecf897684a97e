"""An OpenTelemetry collector of a test's own: a real OTLP server that keeps what it is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as stubs
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.waiting import eventually


class SeenSpan(NamedTuple):
    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, object]
    failure: str


class Collector(stubs.TraceServiceServicer):
    """`spans` in the order in which they came; while `holding` is set, no answer is given."""

    def __init__(self) -> None:
        self.spans: list[SeenSpan] = []
        self.address = ""
        self.let_go = Event()
        self.let_go.set()

    def Export(
        self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        self.let_go.wait(30)
        for resource in request.resource_spans:
            service = str(_plain(resource.resource.attributes)["service.name"])
            self.spans += [_seen(service, span) for scope in resource.scope_spans for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def named(self, name: str, *, service: str = "") -> SeenSpan:
        """The only span of that name, as soon as it is there."""
        found = eventually(
            lambda: [one for one in self.spans if one.name == name and service in ("", one.service)], 10, name
        )
        assert len(found) == 1, found
        return found[0]


@contextmanager
def collector() -> Iterator[Collector]:
    running = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    stubs.add_TraceServiceServicer_to_server(running, server)  # type: ignore[no-untyped-call, unused-ignore]
    running.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield running
    finally:
        running.let_go.set()
        server.stop(0).wait()


def _seen(service: str, span: trace_pb2.Span) -> SeenSpan:
    return SeenSpan(
        service=service,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_plain(span.attributes),
        failure=span.status.message if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else "",
    )


def _plain(pairs: Any) -> dict[str, object]:
    def value(pair: KeyValue) -> object:
        kind = pair.value.WhichOneof("value")
        return getattr(pair.value, kind) if kind else None

    return {pair.key: value(pair) for pair in pairs}
