"""A runner on this machine: one folder and one small watching process per workload."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from feinschliff.kit.errors import Unavailable, WrongState
from feinschliff.workloads import wrapper
from feinschliff.workloads.environment import environment
from feinschliff.workloads.runner import LOG_CHUNK_BYTES
from feinschliff.workloads.spec import PYTHON, WorkloadSpec, check_name
from feinschliff.workloads.status import Observation, State
from feinschliff.workloads.warm import WarmWorkers, Work

LOG_BYTES_MAX = 64 * 1024 * 1024
_LOCK, _SPEC, _PIDS, _EXIT, _STOP, _LOG = "lock", "spec.json", "pids.json", "exit.json", "stop.json", "log"
_PIDS_WAIT_SECONDS = 5.0
_LEFTOVER_SECONDS = 3600.0


class _Pids(NamedTuple):
    wrapper: int
    group: int


class SubprocessRunner:
    """Workloads as subprocesses in sessions of their own, each with a folder below `folder`.

    A workload lives exactly as long as somebody holds the lock in its folder: its watcher and the workload inherit the
    locked file, so neither a restart of the service nor a reused process id can confuse it. The environment is small:
    `INHERITED` of ours, then `env`, then `secret_env`. A log beyond 64 MiB starts anew and keeps its end in `<log>.1`.

    Args:
        warm: processes that stand ready to become workloads; closed with the runner. None: each starts cold.
    """

    def __init__(self, folder: Path, *, log_bytes_max: int = LOG_BYTES_MAX, warm: WarmWorkers | None = None) -> None:
        self._folder = folder.absolute()
        self._log_bytes_max = log_bytes_max
        self._warm = warm
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in self._folder.glob(".*"):
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)

    def start(self, spec: WorkloadSpec) -> None:
        folder = self._folder / spec.name
        if folder.exists():
            return
        log_path = (spec.log_path or folder / _LOG).absolute()
        aside = Path(tempfile.mkdtemp(prefix=".start-", dir=self._folder))
        with (aside / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _write_json(aside / _SPEC, _described(spec, log_path))
            try:
                aside.rename(folder)
            except OSError:
                shutil.rmtree(aside, ignore_errors=True)
                if not folder.exists():
                    raise
                return
            self._spawn(spec, folder, log_path, lock.fileno())

    def observe(self, name: str) -> Observation:
        folder = self._folder / check_name(name)
        spec = _read_json(folder / _SPEC)
        if spec is None:
            return Observation(name, State.NOTHING)
        labels = spec["labels"]
        ended = _read_json(folder / _EXIT)
        if ended is None and _is_held(folder):
            return Observation(name, State.RUNNING, labels=labels)
        ended = ended or _read_json(folder / _EXIT) or {"exit_code": None, "signal": None}
        return Observation(name, State.EXITED, ended["exit_code"], ended["signal"], labels)

    def stop(self, name: str) -> None:
        folder = self._folder / check_name(name)
        if self.observe(name).state is not State.RUNNING:
            return
        pids = _pids(folder)
        if pids is None:
            return
        spec = _read_json(folder / _SPEC) or {}
        now = time.time()
        stop = _read_json(folder / _STOP)
        if stop is None:
            stop = {"deadline": now + spec["grace_seconds"]}
            _write_json(folder / _STOP, stop)
        if now > stop["deadline"]:
            _signal_group(pids.group, signal.SIGKILL)
            return
        try:
            os.kill(pids.wrapper, signal.SIGTERM)
        except ProcessLookupError:
            _signal_group(pids.group, signal.SIGTERM)

    def forget(self, name: str) -> None:
        folder = self._folder / check_name(name)
        if self.observe(name).state is State.RUNNING:
            raise WrongState("WORKLOAD_RUNNING", f"{name} is running; stop it first.", name=name)
        gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=self._folder))
        with suppress(FileNotFoundError):
            folder.rename(gone / name)
        shutil.rmtree(gone, ignore_errors=True)

    def list(self, labels: Mapping[str, str] | None = None) -> Sequence[Observation]:
        wanted = (labels or {}).items()
        names = sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))
        seen = (self.observe(name) for name in names)
        return [one for one in seen if one.state is not State.NOTHING and wanted <= one.labels.items()]

    def logs(self, name: str, offset: int = 0, limit_bytes: int = LOG_CHUNK_BYTES) -> bytes:
        spec = _read_json(self._folder / check_name(name) / _SPEC)
        if spec is None:
            return b""
        try:
            with Path(spec["log_path"]).open("rb") as source:
                source.seek(offset)
                return source.read(limit_bytes)
        except FileNotFoundError:
            return b""

    def close(self) -> None:
        """Only those that stand ready are held: watchers are processes of their own."""
        if self._warm is not None:
            self._warm.close()

    def _spawn(self, spec: WorkloadSpec, folder: Path, log_path: Path, lock: int) -> None:
        program = sys.executable if spec.command[0] == PYTHON else spec.command[0]
        watch = [str(folder), str(log_path), str(spec.grace_seconds), str(self._log_bytes_max)]
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            with log_path.open("ab") as log:
                work = Work(folder, log_path, self._log_bytes_max, lock, log.fileno())
                if self._warm is not None and self._warm.give(spec, work):
                    return
                (folder / _PIDS).unlink(missing_ok=True)  # of one that was about to take it
                watcher = subprocess.Popen(
                    [sys.executable, "-I", "-S", wrapper.__file__, *watch, program, *spec.command[1:]],
                    env=environment(spec.env, spec.secret_env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock],
                )
        except OSError as failure:
            shutil.rmtree(folder, ignore_errors=True)
            raise Unavailable(
                "WORKLOAD_START_FAILED", f"{spec.name} cannot start: {failure}.", name=spec.name
            ) from failure
        threading.Thread(target=watcher.wait, name=f"reap-{spec.name}", daemon=True).start()


def _described(spec: WorkloadSpec, log_path: Path) -> dict[str, Any]:
    return {
        "command": spec.command,
        "env": dict(spec.env),
        "labels": dict(spec.labels),
        "grace_seconds": spec.grace_seconds,
        "log_path": str(log_path),
    }


def _is_held(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _pids(folder: Path) -> _Pids | None:
    """Who to signal; waits for a watcher that is just starting, None if the workload is gone before it tells."""
    deadline = time.monotonic() + _PIDS_WAIT_SECONDS
    while (pids := _read_json(folder / _PIDS)) is None:
        if not _is_held(folder):
            return None
        if time.monotonic() > deadline:
            raise Unavailable("WORKLOAD_STOP_FAILED", f"{folder.name} does not come up; try again.", name=folder.name)
        time.sleep(0.01)
    return _Pids(pids["wrapper"], pids["group"])


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return cast(dict[str, Any], json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False, encoding="utf-8") as aside:
        json.dump(content, aside)
    Path(aside.name).replace(path)
