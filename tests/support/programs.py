"""Small programs to run as workloads, and what they show."""

from __future__ import annotations

import textwrap

from feinschliff.workloads.runner import Runner
from feinschliff.workloads.status import Observation, State
from tests.support.waiting import eventually

STUBBORN = textwrap.dedent(
    """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    while True: time.sleep(1)
    """
)
POLITE = textwrap.dedent(
    """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    print("ready", flush=True)
    while True: time.sleep(1)
    """
)
PARENT = textwrap.dedent(
    """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
    print("child", child.pid, flush=True)
    while True: time.sleep(1)
    """
)
START_AND_DIE = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from feinschliff.workloads.spec import WorkloadSpec

    runner = open_runner(sys.argv[1])
    runner.start(WorkloadSpec("orphan", tuple(sys.argv[2:]), labels={"job": "1"}, grace_seconds=1))
    os.kill(os.getpid(), signal.SIGKILL)
    """
)


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return ("python", "-c", code, *arguments)


def ended(runner: Runner, name: str) -> Observation:
    def seen() -> Observation | None:
        observation = runner.observe(name)
        return observation if observation.state is State.EXITED else None

    observation = eventually(seen, 60, f"the end of {name}")
    assert observation is not None
    return observation


def says(runner: Runner, name: str, text: bytes) -> None:
    eventually(lambda: text in runner.logs(name), 60, f"{text!r} in the log of {name}")
