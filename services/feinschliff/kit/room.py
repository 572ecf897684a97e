"""What a room tells the server about itself."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from feinschliff.kit.health import Readiness
from feinschliff.kit.metrics import Metrics


class Servicer(NamedTuple):
    """One gRPC service.

    Attributes:
        add: the generated `add_...Servicer_to_server`.
        full_name: such as `package.v1.Service`.
        standing: methods that go on until their client leaves, beside those named Watch...; the server's stop ends
            them first, with UNAVAILABLE SERVER_STOPPING.
    """

    add: Callable[..., None]
    instance: object
    full_name: str
    standing: Sequence[str] = ()


class Loop(NamedTuple):
    """Work in the background that must not die: when it raises or returns, it is logged, counted and begun again."""

    name: str
    run: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Room:
    """A service as the server needs it.

    Attributes:
        port: of gRPC, or of `http` where there are no servicers; 0 takes a free one.
        checks: by name, what must answer for the room to be ready; each raises if it does not, in a thread.
        close: called in order at the end, when nothing runs any more.
        http: serves HTTP until it is cancelled; then it ends what still runs and returns. If it ends by itself, the
            whole process stops.
        readiness: what the checks say, for a room that answers health itself.
    """

    name: str
    port: int
    metrics_port: int
    servicers: Sequence[Servicer]
    loops: Sequence[Loop]
    checks: Mapping[str, Callable[[], None]]
    close: Sequence[Callable[[], None]]
    metrics: Metrics
    http: Callable[[], Awaitable[None]] | None = None
    readiness: Readiness = field(default_factory=Readiness)
