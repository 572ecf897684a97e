"""The only module that knows OpenTelemetry: spans of every room here, sent to a collector in the background."""

import threading
from collections.abc import Sequence
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from feinschliff.kit.spans import Attributes, Kind
from feinschliff.kit.tracing import Trace

EXPORT_SECONDS = 10.0
_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}


class OtlpRecorder:
    """One queue for all rooms, bounded: where the collector is slow or away, spans are dropped and no call waits.

    OpenTelemetry's own variables, such as OTEL_BSP_MAX_QUEUE_SIZE and OTEL_EXPORTER_OTLP_CERTIFICATE, hold here too.

    Args:
        url: of the collector; plain text with http, TLS with https.
        sample_ratio: of the traces that begin here, how many are kept; others are kept if their caller keeps them.
    """

    def __init__(self, url: str, sample_ratio: float) -> None:
        self._exporter = _Exporter(endpoint=url, timeout=EXPORT_SECONDS)
        self._processor = BatchSpanProcessor(self._exporter)
        self._sampler = ParentBased(TraceIdRatioBased(sample_ratio))
        self._lock = threading.Lock()
        self._tracers: dict[str, Tracer] = {}

    def begin(self, room: str, name: str, kind: Kind, parent: Trace | None, attributes: Attributes) -> "OtlpRecording":
        context = Context()  # an empty one, not the thread's: where we are is ours to say
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(_context_of(parent)), context)
        tracer = self._tracer(room)
        return OtlpRecording(tracer.start_span(name, context, kind=_KINDS[kind], attributes=dict(attributes)))

    def close(self, seconds: float) -> None:
        closing = threading.Thread(target=self._processor.shutdown, name="flush-spans", daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            self._exporter.is_cut = True
            self._exporter.shutdown()

    def _tracer(self, room: str) -> Tracer:
        with self._lock:
            if room not in self._tracers:
                named = {"service.name": f"feinschliff-{room}", "service.version": version("feinschliff")}
                provider = TracerProvider(
                    sampler=self._sampler, resource=Resource.create(named), shutdown_on_exit=False
                )
                provider.add_span_processor(self._processor)
                self._tracers[room] = provider.get_tracer("feinschliff")
            return self._tracers[room]


class _Exporter(OTLPSpanExporter):
    """Cut while it sends, it fails in ways that say nothing new: the spans are lost."""

    is_cut = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            return super().export(spans)
        except Exception:
            if not self.is_cut:
                raise
            return SpanExportResult.FAILURE


class OtlpRecording:
    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def trace(self) -> Trace:
        context = self._span.get_span_context()
        return Trace(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled)

    def end(self, name: str, failure: str, attributes: Attributes) -> None:
        if name:
            self._span.update_name(name)
        self._span.set_attributes(dict(attributes))
        if failure:
            self._span.set_status(Status(StatusCode.ERROR, failure))
        self._span.end()


def _context_of(trace: Trace) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), is_remote=True, trace_flags=flags)
