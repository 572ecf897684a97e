"""Grounds that workloads run on, each with runners that come and go: this machine, and a cluster in this process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from feinschliff.workloads.kubernetes import KubernetesRunner
from feinschliff.workloads.kubernetes_api import Api
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.profiles import Profile
from feinschliff.workloads.runner import Runner
from feinschliff.workloads.status import State
from tests.support.cluster.cluster import NAMESPACE, Cluster
from tests.support.programs import START_AND_DIE, ended
from tests.support.waiting import eventually

PROFILE = Profile(name="cpu", image="registry.example/feinschliff/trainer:1", slots=100)


class Ground(Protocol):
    """Where workloads run; runners open on it come and go."""

    def open(self) -> Runner: ...

    def start_and_die(self, command: tuple[str, ...]) -> None:
        """Another process starts the workload `orphan` and is killed at once."""
        ...


@dataclass
class Machine:
    """This one."""

    folder: Path

    def open(self) -> SubprocessRunner:
        return SubprocessRunner(self.folder)

    def start_and_die(self, command: tuple[str, ...]) -> None:
        opening = """
        def open_runner(place):
            from feinschliff.workloads.process import SubprocessRunner
            return SubprocessRunner(Path(place))
        """
        run_and_die(opening, str(self.folder), command)

    def clear(self) -> None:
        runner = self.open()
        for seen in runner.list():
            if seen.state is State.RUNNING:
                eventually((self.folder / seen.name / "pids.json").exists, 60, "its pids")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pids(runner, seen.name)["group"], signal.SIGKILL)
                ended(runner, seen.name)


@dataclass
class OnCluster:
    """A namespace."""

    cluster: Cluster
    opened: list[KubernetesRunner] = field(default_factory=list)

    def open(self) -> KubernetesRunner:
        runner = KubernetesRunner(Api.at(self.cluster.url, NAMESPACE), default_profile=PROFILE)
        self.opened.append(runner)
        return runner

    def start_and_die(self, command: tuple[str, ...]) -> None:
        opening = """
        def open_runner(place):
            from feinschliff.workloads.kubernetes import KubernetesRunner
            from feinschliff.workloads.kubernetes_api import Api
            from feinschliff.workloads.profiles import Profile
            return KubernetesRunner(Api.at(place, "training"), default_profile=Profile(name="cpu", image="trainer:1"))
        """
        run_and_die(opening, self.cluster.url, command)

    def close(self) -> None:
        for runner in self.opened:
            runner.close()
        self.cluster.close()


def run_and_die(opening: str, place: str, command: tuple[str, ...]) -> None:
    code = textwrap.dedent(opening) + START_AND_DIE
    died = subprocess.run([sys.executable, "-c", code, place, *command], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL


def pids(runner: SubprocessRunner, name: str) -> dict[str, int]:
    found: dict[str, int] = json.loads((runner._folder / name / "pids.json").read_bytes())
    return found
