"""Every metric of the platform, declared once: name with unit, kind, labels from closed sets, and who has it."""

import socket
import threading
from socketserver import TCPServer, ThreadingMixIn
from typing import TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from feinschliff.kit.catalogue import CATALOGUE, MetricSpec

__all__ = ["CATALOGUE", "MetricSpec", "Metrics"]

POLL_SECONDS = 0.1  # how long closing the port may take
F = TypeVar("F", Counter, Gauge, Histogram)


class Metrics:
    """One room's metrics in a registry of their own, so that rooms in one process each show theirs on their port."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.registry = CollectorRegistry()
        self._families = {
            name: _family(name, spec, self.registry) for name, spec in CATALOGUE.items() if room in spec.rooms
        }
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def counter(self, name: str) -> Counter:
        """The counter; a name that is not declared for this room, or is no counter, is refused with KeyError."""
        return self._family(name, Counter)

    def gauge(self, name: str) -> Gauge:
        return self._family(name, Gauge)

    def histogram(self, name: str) -> Histogram:
        return self._family(name, Histogram)

    def serve(self, port: int, host: str = "127.0.0.1") -> "Exposed":
        """Answers Prometheus on this port from a thread; 0 takes a free one."""
        return Exposed(host, port, self.registry)

    def value(self, name: str, **labels: str) -> float:
        """The current value of one sample, 0 where it has none yet; histograms by `_count` or `_sum`."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def _family(self, name: str, kind: type[F]) -> F:
        family = self._families.get(name)
        if not isinstance(family, kind):
            raise KeyError(f"{name} is not declared in feinschliff.kit.catalogue as a {kind.__name__} of {self.room}")
        return family


def _family(name: str, spec: MetricSpec, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    family = _made(name, spec, registry)
    for value in spec.starts:
        family.labels(value)
    return family


def _made(name: str, spec: MetricSpec, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    match spec.kind:
        case "counter":
            return Counter(name, spec.help, spec.labels, registry=registry)
        case "gauge":
            return Gauge(name, spec.help, spec.labels, registry=registry)
        case "histogram":
            return Histogram(name, spec.help, spec.labels, buckets=spec.buckets, registry=registry)


class Exposed:
    """A metrics port that is open."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        kind = _ServerV6 if ":" in host else _Server
        self._server = make_server(host, port, make_wsgi_app(registry), kind, handler_class=_QuietHandler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks DNS for our name, which can take seconds
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is no event."""
