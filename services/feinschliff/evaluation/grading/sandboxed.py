"""Python graders of this room: the sandbox that the installation chose, off the event loop, and counted."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.kit.errors import StartError, Unavailable
from feinschliff.kit.metrics import Metrics
from feinschliff.sandbox.bubblewrap import BubblewrapSandbox
from feinschliff.sandbox.call import Call, Outcome, Sandbox
from feinschliff.sandbox.compiled import shipped
from feinschliff.sandbox.pool import Environments, WasmSandbox

WORKERS_MIN, WORKERS_MAX = 2, 8
"""Where the settings name no number; each may take all the memory of one grade."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Sandboxed:
    """As many calls at once as the sandbox has workers, each in a thread that waits; others stand in line.

    Its threads are its own: a room whose other work is blocking too is not held up by graders that take their time.
    """

    def __init__(self, sandbox: Sandbox, workers: int, metrics: Metrics) -> None:
        self._sandbox = sandbox
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._runs = metrics.counter("feinschliff_evaluation_sandbox_runs_total")
        self._waiting = metrics.gauge("feinschliff_evaluation_sandbox_runs_in_flight")

    @property
    def environments(self) -> tuple[str, ...]:
        return tuple(self._sandbox.environments)

    async def run(self, call: Call) -> Outcome:
        with self._waiting.track_inprogress():
            outcome = await asyncio.get_running_loop().run_in_executor(self._threads, self._sandbox.run, call)
        self._runs.labels("value" if outcome.fault is None else outcome.fault.value).inc()
        return outcome

    def close(self) -> None:
        """Ends what still runs; its graders say so."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._sandbox.close()


def workers_for(processors: float) -> int:
    return min(max(round(processors), WORKERS_MIN), WORKERS_MAX)


def processors(quota: Path = _QUOTA) -> float:
    """That this process may use: its share of the machine, where a container has one, and never more than it sees."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
    except (OSError, ValueError):
        return seen
    return seen if most == "max" else min(seen, int(most) / int(period))


def sandbox_of(settings: EvaluationSettings, metrics: Metrics) -> Sandboxed:
    """The sandbox that the settings choose.

    Raises:
        StartError: bubblewrap is chosen and cannot be used.
    """
    workers = settings.evaluation_sandbox_workers or workers_for(processors())
    memory_bytes = settings.evaluation_sandbox_memory_bytes
    starts = metrics.counter("feinschliff_evaluation_sandbox_starts_total")
    made: Sandbox
    if settings.evaluation_sandbox == "bubblewrap":
        try:
            made = BubblewrapSandbox(workers=workers, memory_bytes=memory_bytes)
        except Unavailable as refusal:
            raise StartError([f"{refusal.reason}: {refusal.message}"]) from None
    else:
        folders = [settings.home.absolute() / "sandbox", shipped()]
        environments = Environments(folders, settings.evaluation_sandbox_environments)
        made = WasmSandbox(environments, workers=workers, memory_bytes=memory_bytes, on_start=starts.inc)
    return Sandboxed(made, workers, metrics)
