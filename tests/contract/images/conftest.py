"""The environment of the image `control`, made as an image makes it: from a wheelhouse, by a Python with only pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.images import INSTALL, extras, send


@dataclass(frozen=True)
class Installed:
    """A virtual environment that the steps made."""

    folder: Path

    def run(self, code: str) -> str:
        """What a program prints there; it sees nothing of ours."""
        command = [self.folder / "bin" / "python", "-I", "-W", "error", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={}, cwd=self.folder)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def size_bytes(self) -> int:
        """Of all that is installed; byte code, which follows from it, does not count."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return sum(path.lstat().st_size for path in files)


@dataclass(frozen=True)
class Steps:
    """Runs steps of install.py on a copy of what a build is sent."""

    source: Path

    def run(self, python: Path, *arguments: str | Path, offline: bool = True) -> None:
        told = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)} if offline else {}
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        command = [python, INSTALL, *arguments]
        environment = {**os.environ, **told, **self._compiler(), "PATH": path}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=self.source)
        assert done.returncode == 0, f"{arguments[0]}: {done.stderr[-4000:]}"

    @property
    def wheels(self) -> Path:
        return self.source.parent / "wheels"

    def _compiler(self) -> dict[str, str]:
        """Kernels for every level are built as for an image, but not optimised, which takes seconds each."""
        ours, wrapper = shutil.which("cc"), self.source.parent / "cc"
        if ours is None:
            return {}
        wrapper.write_text(f'#!/bin/sh\nexec {ours} "$@" -O0\n', "utf-8")
        wrapper.chmod(0o755)
        return {"CC": str(wrapper)}


@pytest.fixture(scope="session")
def control(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """All steps of the target but the sample model; only the first, which fills the wheelhouse, has the network."""
    folder = tmp_path_factory.mktemp("control")
    steps = Steps(send(folder / "source"))
    build, made = folder / "build", Installed(folder / "environment")
    named = f"--extras={','.join(extras('control'))}"
    steps.run(Path(sys.executable), "wheelhouse", steps.wheels, named, "--wanted=false", offline=False)
    subprocess.run([sys.executable, "-m", "venv", build], check=True)
    _run_all(
        steps,
        build / "bin" / "python",
        ("tools",),
        ("wheel", folder / "dist"),
        ("packages", made.folder, named, "--no-compile"),
        ("project", made.folder, f"--wheels={folder / 'dist'}", "--no-compile"),
    )
    return made


def _run_all(steps: Steps, python: Path, *each: Sequence[str | Path]) -> None:
    for arguments in each:
        steps.run(python, *arguments)
