"""What the completion log says of a project, which share of calls is kept and how large: asked beside the calls."""

from __future__ import annotations

import logging
import threading

import grpc

from feinschliff.formats.exchanges import EXCHANGE_BYTES_MAX
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import from_rpc_error
from feinschliff.v1 import ingestion_pb2 as pb
from feinschliff.v1.ingestion_pb2_grpc import CompletionLogServiceStub

log = logging.getLogger(__name__)
BELIEVED_SECONDS = 30.0
PROJECTS_MAX = 4096


class Policies:
    """What was last heard of each project that calls; nothing is kept of one that was never heard of."""

    def __init__(self, stub: CompletionLogServiceStub, clock: Clock) -> None:
        self._stub = stub
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, float]] = {}  # project -> when asked, fraction
        self._bytes_max = EXCHANGE_BYTES_MAX
        self._wanted: set[str] = set()

    @property
    def exchange_bytes_max(self) -> int:
        """Largest exchange that the log takes, as it last said."""
        return self._bytes_max

    def fraction(self, project: str) -> float:
        """Share of calls kept that do not say, 0 to 1; at once, as far as it is known."""
        with self._lock:
            asked_at, fraction = self._known.get(project, (-BELIEVED_SECONDS, 0.0))
            if self._clock.monotonic() - asked_at >= BELIEVED_SECONDS and len(self._wanted) < PROJECTS_MAX:
                self._wanted.add(project)
        return fraction

    def refresh(self) -> None:
        """Asks for what was missed; blocks. Where ingestion does not answer, what was known stays."""
        with self._lock:
            wanted = sorted(self._wanted)
        for project in wanted:
            request = pb.GetCompletionPolicyRequest(name=f"projects/{project}/completionPolicy")
            try:
                policy = self._stub.GetCompletionPolicy(request, timeout=2)
            except grpc.RpcError as error:
                log.debug("a completion policy is not known", extra={"why": from_rpc_error(error).reason})
                return
            with self._lock:
                self._bytes_max = policy.exchange_bytes_max or EXCHANGE_BYTES_MAX
                if len(self._known) >= PROJECTS_MAX:
                    self._known.clear()
                self._known[project] = (self._clock.monotonic(), policy.sampled_fraction)
                self._wanted.discard(project)
