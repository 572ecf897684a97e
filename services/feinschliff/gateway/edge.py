"""What surrounds every request: its id and trace, OpenAI's headers, one log line, and the numbers."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feinschliff.kit import context as ctx
from feinschliff.kit import spans
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.spans import Attributes
from feinschliff.kit.tracing import TRACEPARENT_KEY

log = logging.getLogger(__name__)
API_VERSION = b"2020-10-01"
PROBES = frozenset({"/healthz", "/readyz"})
METHODS = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Edge:
    """The outermost layer of the app; what it wraps must answer its own errors."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._in_flight = metrics.gauge("feinschliff_gateway_http_requests_in_flight")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        exchange.begin()
        with self._in_flight.track_inprogress():
            try:
                await self._app(scope, receive, exchange.send)
            except Exception:
                if not exchange.status:
                    raise
                log.debug("a fault was answered and logged", exc_info=True)
            finally:
                self._tell(exchange)

    def _tell(self, exchange: _Exchange) -> None:
        seconds = exchange.seconds()
        self._metrics.counter("feinschliff_gateway_http_requests_total").labels(
            exchange.route, exchange.method, f"{exchange.status // 100}xx" if exchange.status else "none"
        ).inc()
        self._metrics.histogram("feinschliff_gateway_http_request_seconds").labels(
            exchange.route, exchange.method
        ).observe(seconds)
        exchange.end()
        level = logging.DEBUG if exchange.route in PROBES else logging.INFO
        log.log(
            level,
            "request",
            extra={
                "route": exchange.route,
                "method": exchange.method,
                "status": exchange.status,
                "seconds": round(seconds, 6),
                "project": exchange.project,
            },
        )


class _Exchange:
    """One request and what became of it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._begun_seconds = time.monotonic()
        self.method = scope["method"] if scope["method"] in METHODS else "OTHER"
        self.status = 0

    def begin(self) -> None:
        """Takes over the caller's request id and trace, or makes them; calls to services carry them on."""
        sent = {name: value.decode("latin-1") for name, value in self._scope["headers"]}
        request_id = sent.get(ctx.REQUEST_ID_KEY.encode(), "")
        ctx.set_request_id(request_id if _REQUEST_ID.fullmatch(request_id) else ctx.new_request_id())
        self._span = spans.begin_served(
            "gateway",
            self.method,
            sent.get(TRACEPARENT_KEY.encode(), ""),
            attributes={"http.request.method": self.method},
            is_told=self._scope["path"] not in PROBES,
        )
        ctx.set_trace(self._span.trace)
        ctx.add_log_fields(room="gateway")

    def end(self) -> None:
        attributes: Attributes = {"http.route": self.route, "http.response.status_code": self.status}
        failure = f"{self.status}" if self.status >= 500 else "" if self.status else "no answer"
        self._span.end(name=f"{self.method} {self.route}", failure=failure, attributes=attributes)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), *self._headers()]}
        await self._send(message)

    def seconds(self) -> float:
        return time.monotonic() - self._begun_seconds

    @property
    def route(self) -> str:
        """The route's own path, not the caller's: a closed set."""
        route: Any = self._scope.get("route")
        return str(route.path) if route is not None else "unknown"

    @property
    def project(self) -> str:
        state: MutableMapping[str, Any] = self._scope.get("state") or {}
        return str(state.get("project", ""))

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"x-request-id", ctx.current_request_id().encode()),
            (b"openai-processing-ms", str(int(self.seconds() * 1000)).encode()),
            (b"openai-version", API_VERSION),
        ]
        return [*headers, (b"openai-organization", self.project.encode())] if self.project else headers
