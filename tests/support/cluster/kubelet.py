"""The node: runs each pod's command as a real process, ends it with its grace, and says how it ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.cluster.store import Refused, stamp

if TYPE_CHECKING:
    from tests.support.cluster.cluster import Cluster

Object = dict[str, Any]

HOME = "/var/lib/feinschliff"
NEVER = "1970-01-01T00:00:00Z"
_POLL_SECONDS = 0.02


@dataclass
class Container:
    """One running command."""

    process: subprocess.Popen[bytes]
    started: str
    kill_at: float | None = None
    killed_as: str = ""


class Log:
    """One container's output on disk; read until it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_whole = threading.Event()

    def read(self, *, follow: bool) -> Iterator[bytes]:
        with self.path.open("rb") as source:
            while True:
                ends = self.is_whole.is_set()
                if chunk := source.read(1 << 16):
                    yield chunk
                elif ends or not follow:
                    return
                else:
                    time.sleep(_POLL_SECONDS)


class Kubelet:
    """The only node. The image of every pod is this machine's: `python` is this interpreter."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self.translate: Callable[[list[str]], list[str]] = _as_here
        self.running: dict[str, Container] = {}
        self._logs: dict[str, Log] = {}
        self.ignored: set[str] = set()

    def sync(self, pod: Object) -> None:
        """One turn for one pod that is placed here."""
        uid = pod["metadata"]["uid"]
        if uid in self.ignored:
            return
        container = self.running.get(uid)
        leaves = "deletionTimestamp" in pod["metadata"]
        if container is None:
            if leaves:
                self._bury(pod)
            elif pod["status"]["phase"] == "Pending":
                self._start(pod)
            return
        if leaves and container.kill_at is None:
            container.kill_at = time.monotonic() + pod["metadata"]["deletionGracePeriodSeconds"]
            with suppress(ProcessLookupError):
                container.process.terminate()
        if container.kill_at is not None and time.monotonic() >= container.kill_at:
            self.kill(uid)
        if (code := container.process.poll()) is not None:
            self._end(pod, container, code)

    def kill(self, uid: str, reason: str = "") -> None:
        container = self.running[uid]
        container.killed_as = container.killed_as or reason
        with suppress(ProcessLookupError):
            os.killpg(container.process.pid, signal.SIGKILL)

    def abandon(self, uid: str) -> None:
        """Its process dies and nobody tells."""
        self.ignored.add(uid)
        self.kill(uid)
        self.running.pop(uid).process.wait()
        self._logs[uid].is_whole.set()

    def log(self, pod: str) -> Log:
        made = self._cluster.store.get("pods", pod)
        log = self._logs.get(made["metadata"]["uid"])
        if log is None:
            message = f'container "trainer" in pod "{pod}" is waiting to start: ContainerCreating'
            raise Refused(400, "BadRequest", message)
        return log

    def close(self) -> None:
        for uid, container in self.running.items():
            self.kill(uid)
            container.process.wait()

    def _start(self, pod: Object) -> None:
        container = pod["spec"]["containers"][0]
        waits = self._cluster.trouble_of(pod)
        try:
            env = self._environment(pod, container)
        except Refused as refused:
            waits = waits or ("CreateContainerConfigError", refused.message)
        if waits:
            self._say(pod, {"waiting": {"reason": waits[0], "message": waits[1]}})
            return
        uid = pod["metadata"]["uid"]
        home = self._folder / uid
        home.mkdir(exist_ok=True)
        log = self._logs[uid] = Log(home / "log")
        command = self.translate([part.replace(HOME, str(home)) for part in container["command"]])
        if shutil.which(command[0], path=env["PATH"]) is None:
            log.path.touch()
            log.is_whole.set()
            message = f'exec: "{command[0]}": executable file not found in $PATH'
            self._say(pod, _terminated(128, "StartError", NEVER, message), "Failed")
            return
        with log.path.open("ab") as out:
            process = subprocess.Popen(
                command,
                env={key: value.replace(HOME, str(home)) for key, value in env.items()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=home,
            )
        started = stamp()
        self.running[uid] = Container(process, started)
        self._say(pod, {"running": {"startedAt": started}}, "Running")

    def _environment(self, pod: Object, container: Object) -> dict[str, str]:
        env = {"PATH": os.environ["PATH"], "KUBERNETES_SERVICE_HOST": "10.0.0.1", "LANG": "C.UTF-8"}
        for one in container.get("env", ()):
            if "value" in one:
                env[one["name"]] = one["value"]
                continue
            wanted = one["valueFrom"]["secretKeyRef"]
            there = self._cluster.store.find("secrets", wanted["name"])
            if there is None:
                raise Refused(404, "NotFound", f'secret "{wanted["name"]}" not found')
            env[one["name"]] = there["data"][wanted["key"]].removeprefix("plain:")
        return env

    def _end(self, pod: Object, container: Container, code: int) -> None:
        uid = pod["metadata"]["uid"]
        with suppress(ProcessLookupError):
            os.killpg(container.process.pid, signal.SIGKILL)
        del self.running[uid]
        self._logs[uid].is_whole.set()
        exit_code = code if code >= 0 else 128 - code
        reason = container.killed_as or ("Completed" if exit_code == 0 else "Error")
        phase = "Succeeded" if exit_code == 0 else "Failed"
        self._say(pod, _terminated(exit_code, reason, container.started), phase)
        if "deletionTimestamp" in pod["metadata"]:
            self._bury(pod)

    def _bury(self, pod: Object) -> None:
        """Nothing of it runs any more; a pod that never ran counts as failed, and goes when nobody holds it."""
        if pod["status"]["phase"] == "Pending":
            self._say(pod, None, "Failed")
        if pod["metadata"].get("deletionGracePeriodSeconds"):
            with suppress(Refused):
                self._cluster.store.delete("pods", pod["metadata"]["name"], uid=pod["metadata"]["uid"], grace=0)

    def _say(self, pod: Object, state: Object | None, phase: str = "Pending") -> None:
        def change(made: Object) -> None:
            made["status"]["phase"] = phase
            made["status"].setdefault("startTime", stamp())
            if state is not None:
                image = made["spec"]["containers"][0]["image"]
                status = {"name": "trainer", "image": image, "imageID": "", "ready": False, "restartCount": 0}
                made["status"]["containerStatuses"] = [{**status, "state": state}]

        with suppress(Refused):
            pod["status"] = self._cluster.store.update("pods", pod["metadata"]["name"], change)["status"]


def _terminated(code: int, reason: str, started: str, message: str = "") -> Object:
    ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": stamp()}
    return {"terminated": {**ended, **({"message": message} if message else {})}}


def _as_here(command: list[str]) -> list[str]:
    return [sys.executable, *command[1:]] if command[0] == "python" else command
