"""The parts of a platform on one machine: how each is started, stopped, and asked why it died."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from feinschliff.cli.embedded_s3 import RunningS3, start_s3, stop_s3
from feinschliff.cli.keys import S3Keys
from feinschliff.kit.errors import Refusal, StartError

LOG_BYTES_MAX = 64 * 1024 * 1024
_LINES_SHOWN = 5
_TAIL_BYTES = 8192


class Part(Protocol):
    """Something that runs as a process of its own."""

    name: str

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it; raises Refusal where that is impossible."""
        ...

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ends it and waits until it is gone."""
        ...

    def is_hopeless(self, exit_code: int) -> bool:
        """Whether it would end the same way again."""
        ...

    def last_words(self) -> str:
        """What it said at its end; may be empty."""
        ...


@dataclass
class ModulePart:
    """A module of ours as a program; its output is appended to `log_path`.

    Args:
        stop_seconds: from SIGTERM to SIGKILL.
        is_tied: whether it ends when this process does, however that dies.
    """

    name: str
    module: str
    environment: Mapping[str, str]
    log_path: Path
    stop_seconds: float
    is_tied: bool = True
    _said_from: int = field(default=0, init=False)

    def start(self) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        _bound(self.log_path)
        with self.log_path.open("ab") as log:
            self._said_from = log.tell()
            return subprocess.Popen(
                [sys.executable, "-m", *(["feinschliff.cli.tied"] if self.is_tied else []), self.module],
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE if self.is_tied else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def is_hopeless(self, exit_code: int) -> bool:
        return exit_code == StartError.exit_code

    def last_words(self) -> str:
        with suppress(FileNotFoundError), self.log_path.open("rb") as log:
            log.seek(max(self._said_from, self.log_path.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
            plain = [line for line in lines if not line.startswith("{")]
            return "\n".join((plain or lines)[-_LINES_SHOWN:])
        return ""


@dataclass
class S3Part:
    """The embedded S3 server on `folder`."""

    folder: Path
    port: int
    keys: S3Keys
    bucket: str
    name: str = "s3"
    _running: RunningS3 | None = field(default=None, init=False)

    def start(self) -> subprocess.Popen[bytes]:
        stop_s3(self.folder)
        self._running = start_s3(
            self.folder,
            port=self.port,
            access_key=self.keys.access_key,
            secret_key=self.keys.secret_key,
            bucket=self.bucket,
        )
        return self._running.process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        if self._running is not None:
            self._running.stop()

    def is_hopeless(self, exit_code: int) -> bool:
        return False

    def last_words(self) -> str:
        with suppress(FileNotFoundError):
            return "\n".join((self.folder / "weed.log").read_text("utf-8", "replace").splitlines()[-_LINES_SHOWN:])
        return ""


def why(refusal: Refusal) -> str:
    return f"{refusal.reason}: {refusal.message}"


def _bound(log_path: Path) -> None:
    with suppress(FileNotFoundError):
        if log_path.stat().st_size > LOG_BYTES_MAX:
            log_path.replace(log_path.with_suffix(".log.1"))
