"""The protocol behind which work runs: subprocesses on one machine, Jobs on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import Observation

LOG_CHUNK_BYTES = 1024 * 1024


class Runner(Protocol):
    """Starts and watches workloads by name; every call may be repeated, by any process, without harm.

    A workload outlives the process that started it; whoever opens the same runner again finds it.
    """

    def start(self, spec: WorkloadSpec) -> None:
        """Start it unless a workload of that name is known, running or exited; of several callers, one starts it.

        Raises:
            Unavailable: WORKLOAD_START_FAILED, the machine or cluster cannot start it now.
        """
        ...

    def observe(self, name: str) -> Observation: ...

    def stop(self, name: str) -> None:
        """Ask it to end (SIGTERM) and see that it is killed, with all it started, when its grace is over.

        Returns at once; `observe` tells when it is gone. A workload that is gone or unknown is fine. The grace runs
        from the first call.
        """
        ...

    def forget(self, name: str) -> None:
        """Drop all traces of an exited workload, so that its name is free; unknown is fine.

        Raises:
            WrongState: WORKLOAD_RUNNING, stop it first.
        """
        ...

    def list(self, labels: Mapping[str, str] | None = None) -> Sequence[Observation]:
        """All workloads that carry every one of these labels, by name."""
        ...

    def logs(self, name: str, offset: int = 0, limit_bytes: int = LOG_CHUNK_BYTES) -> bytes:
        """Its output from byte `offset` on; the next offset is `offset + len(result)`. Unknown or silent: empty."""
        ...

    def close(self) -> None:
        """Let go of connections and threads; workloads run on."""
        ...
