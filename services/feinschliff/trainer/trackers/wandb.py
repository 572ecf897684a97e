"""Weights & Biases, by its own package in a process of its own.

The package starts a service, keeps threads and retries for hours; where it hangs, its process is ended and the trainer
goes on. Beyond the numbers and the recipe nothing is sent: no code, console or list of packages, nothing of the
machine.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from feinschliff.formats.recipe import Wandb as Settings
from feinschliff.kit.addresses import is_inside
from feinschliff.trainer.trackers.tracker import Ending, Point, Run, TrackerRefused, secret

DEFAULT_SECRET = "wandb"
PUBLIC_URL = "https://api.wandb.ai"
PASSED_ON = ("PATH", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY")


class Wandb:
    """One run of a project, whose id follows from the job's; see `tracker.Tracker`.

    A secret holds `api_key`, and `base_url` where the server is one's own. On an offline installation whose server is
    outside, the package writes its own offline files instead, which are handed to `keep`, for `wandb sync` elsewhere.
    """

    def __init__(
        self,
        settings: Settings,
        run: Run,
        *,
        secrets: Path,
        folder: Path,
        offline: bool,
        keep: Callable[[Path], None],
    ) -> None:
        self._settings = settings
        self._run = run
        self._secrets = secrets
        self._folder = folder
        self._offline = offline
        self._keep = keep
        self._writes_files = False
        self._child: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        if self._child is not None and self._child.poll() is None:
            return
        self.abandon()
        if importlib.util.find_spec("wandb") is None:
            raise TrackerRefused("the package wandb is not installed here; the extra `wandb` brings it")
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "feinschliff.trainer.trackers.wandb_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment(),
            cwd=self._folder,
            start_new_session=True,
        )
        self._say(self._first_words())

    def log(self, points: Sequence[Point]) -> None:
        said = [
            (point.step, {name: value for name, value in point.values.items() if math.isfinite(value)})
            for point in points
        ]
        self._say({"points": said})

    def close(self, ending: Ending) -> None:
        self._say({"ending": ending.value})
        self.abandon()
        if self._writes_files:
            for path in sorted(self._folder.rglob("*.wandb")):
                self._keep(path)

    def abandon(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _first_words(self) -> Mapping[str, Any]:
        return {
            "project": self._settings.project,
            "entity": self._settings.entity or None,
            "id": self._run.id,
            "name": self._settings.run_name or self._run.name,
            "tags": self._settings.tags,
            "config": {**self._run.parameters, "job": self._run.job, "base_model": self._run.base_model},
            "mode": "offline" if self._writes_files else "online",
        }

    def _environment(self) -> dict[str, str]:
        """The child's whole environment; its home is the attempt's own folder, so that no key of a person is found."""
        kept: dict[str, str] = {}
        name = self._settings.credentials_secret or DEFAULT_SECRET
        if self._settings.credentials_secret or (self._secrets / name).is_dir():
            kept = secret(self._secrets, name)
        url = kept.get("base_url", PUBLIC_URL)
        self._writes_files = self._offline and not is_inside(url)
        if not self._writes_files and "api_key" not in kept:
            raise TrackerRefused(f"the secret {name!r} has no api_key")
        inherited = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        own = {"WANDB_API_KEY": kept.get("api_key", ""), "WANDB_BASE_URL": url, "WANDB_SILENT": "true"}
        places = {"HOME": str(self._folder), "WANDB_DIR": str(self._folder)}
        return inherited | {key: value for key, value in own.items() if value} | places

    def _say(self, words: Mapping[str, Any]) -> None:
        """Raises OSError where the child is gone, TrackerRefused where it will never do it."""
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise OSError("the process of wandb was not started")
        child.stdin.write(json.dumps(words).encode() + b"\n")
        child.stdin.flush()
        while (line := child.stdout.readline()) and not line.startswith(b"{"):
            pass  # whatever else is printed
        answer = json.loads(line or b"{}")
        if "refused" in answer:
            raise TrackerRefused(str(answer["refused"]))
        if "done" not in answer:
            self.abandon()
            raise OSError(str(answer.get("failed", "the process of wandb ended")))
