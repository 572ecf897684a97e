"""Environments of the tools that we are held against: each of its own below `.build/peers`, with our torch."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

INSTALL_SECONDS_MAX = 1800  # one of them is compiled
# Packages that an environment does not bring itself come from ours: the same torch for everybody.
OURS = sysconfig.get_paths()["purelib"]


class Failed(Exception):
    """A tool does not install here, or does not run to its end."""


class Environment(NamedTuple):
    """What a tool needs; `stubs` stand in for packages that are imported and not used.

    Args:
        variables: of the environment that it is installed in: how it is compiled, for one.
    """

    name: str
    requirements: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()
    stubs: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def python_of(environment: Environment, folder: Path) -> Path:
    """The Python of an environment, which is made if it is not there; a half-made one is finished.

    Raises:
        Failed: it does not install here.
    """
    place = folder / environment.name
    python, ready = place / "bin" / "python", place / ".ready"
    wanted = json.dumps(environment)
    if ready.is_file() and ready.read_text("utf-8") == wanted:
        return python
    if not python.exists():
        _do([sys.executable, "-m", "venv", str(place)])
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "ours.pth").write_text(OURS + "\n", "utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_pinned_torch(place)]
    _do([*pip, *environment.requirements], **dict(environment.variables))
    if environment.without_dependencies:
        _do([*pip, "--no-deps", *environment.without_dependencies])
    for stub in environment.stubs:
        (packages / f"{stub}.py").write_text('"""Stands in for a package that is imported and not used."""\n', "utf-8")
    ready.write_text(wanted, "utf-8")
    return python


def _pinned_torch(place: Path) -> list[str]:
    """No peer may bring another torch: only that it is the same makes times comparable."""
    constraint = place / "constraints.txt"
    constraint.write_text(f"torch=={importlib.metadata.version('torch').partition('+')[0]}\n", "utf-8")
    return ["--constraint", str(constraint)]


def _do(command: list[str], **variables: str) -> None:
    try:
        where = {**os.environ, **variables}
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, env=where)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"`{' '.join(command)}` took more than {INSTALL_SECONDS_MAX} s") from error
    if done.returncode:
        raise Failed(f"`{' '.join(command)}` failed: {done.stderr[-600:]}")
