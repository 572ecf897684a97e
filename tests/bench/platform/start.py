"""Starts the platform as `make up` does, in fresh homes: seconds to ready, seconds to gone, memory at rest.

Prints one JSON object a line, then one for each goal. The first start of a home makes its databases and keys; `warm`
is the second start of the same home.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from feinschliff.cli.demo import environment
from feinschliff.cli.state import read_state

MB = 1_000_000
READY_SECONDS_GOAL = 10.0
CONTROL_MB_GOAL = 350.0
REST_SECONDS = 5.0  # after ready, before memory is read


class Start(NamedTuple):
    """One start and stop."""

    ready_seconds: float
    stop_seconds: float
    memory_mb: Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(f"cores={os.cpu_count()} load={os.getloadavg()[0]:.1f}", file=sys.stderr)
    cold, warm = [], []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(_start(Path(folder)))
            warm.append(_start(Path(folder)))
    _report("platform.start.cold", "ready_seconds", [one.ready_seconds for one in cold])
    _report("platform.start.warm", "ready_seconds", [one.ready_seconds for one in warm])
    _report("platform.stop", "gone_seconds", [one.stop_seconds for one in cold + warm])
    for part in cold[0].memory_mb:
        _report(f"platform.rest.{part}", "rss_mb", [one.memory_mb[part] for one in cold + warm])
    _goal("platform.start.cold", "ready_seconds < 10", max(one.ready_seconds for one in cold), READY_SECONDS_GOAL)
    memory = max(one.memory_mb["control"] for one in cold + warm)
    _goal("platform.rest.control", "rss_mb < 350", memory, CONTROL_MB_GOAL)


def _start(home: Path) -> Start:
    told = {**os.environ, **environment(home)}
    begun = time.perf_counter()
    _feinschliff(told, "up", "--detach")
    ready_seconds = time.perf_counter() - begun
    try:
        time.sleep(REST_SECONDS)
        memory = _memory(home)
    finally:
        begun = time.perf_counter()
        _feinschliff(told, "down")
    return Start(ready_seconds, time.perf_counter() - begun, memory)


def _feinschliff(told: Mapping[str, str], *words: str) -> None:
    command = [sys.executable, "-m", "feinschliff.cli", *words]
    subprocess.run(command, env=told, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _memory(home: Path) -> Mapping[str, float]:
    """Resident memory of every process of the platform, MB of 10^6 bytes."""
    state = read_state(home)
    assert state is not None
    found = {name: child.process for name, child in state.children.items()}
    processes = {**found, "supervisor": state.supervisor}
    return {name: psutil.Process(one.pid).memory_info().rss / MB for name, one in processes.items() if one is not None}


def _report(bench: str, metric: str, values: Sequence[float]) -> None:
    line = {
        "bench": bench,
        "subject": "feinschliff",
        "metric": metric,
        "value": round(statistics.median(values), 2),
        "runs": len(values),
        "spread": [round(min(values), 2), round(max(values), 2)],
    }
    print(json.dumps(line), flush=True)


def _goal(bench: str, words: str, worst: float, limit: float) -> None:
    print(json.dumps({"bench": bench, "goal": words, "value": round(worst, 2), "holds": worst < limit}), flush=True)


if __name__ == "__main__":
    main()
