"""What one run of a subject gives, and how it is told."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from tests.bench.environments import Failed


class Step(NamedTuple):
    """One optimiser step: when it ended, its loss over the labels of its rows in nats, and its real input tokens."""

    end: float
    loss: float
    tokens: int


class Measured(BaseModel):
    """One run; the first step is left out of the speeds."""

    tokens_per_second: list[float]
    startup_seconds: float
    peak_rss_mib: float
    losses: list[float]
    cpu_seconds: float
    load_average: float
    validation_loss: float | None = None


class Ended(NamedTuple):
    started: float
    usage: resource.struct_rusage


def run(command: Sequence[str], *, log: Path, environment: Mapping[str, str], seconds_max: float) -> Ended:
    """Run a process and nothing else of ours; its peak memory is its own.

    Raises:
        Failed: it ended badly, or was ended for taking too long.
    """
    started = time.time()
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file)
        try:
            while True:
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
                if ended:
                    break
                if time.time() - started > seconds_max:
                    raise Failed(f"it took more than {seconds_max:.0f} s")
                time.sleep(0.2)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise Failed(f"exit code {process.returncode}: {log.read_text('utf-8', 'replace')[-3000:]}")
    return Ended(started, usage)


def measured(ended: Ended, steps: Sequence[Step], *, first_begin: float) -> Measured:
    """Args: first_begin: clock time at which the first step began."""
    return Measured(
        tokens_per_second=[after.tokens / (after.end - before.end) for before, after in pairwise(steps)],
        startup_seconds=first_begin - ended.started,
        peak_rss_mib=ended.usage.ru_maxrss / 1024,
        losses=[step.loss for step in steps],
        cpu_seconds=ended.usage.ru_utime + ended.usage.ru_stime,
        load_average=os.getloadavg()[0],
    )


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)
