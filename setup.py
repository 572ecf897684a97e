"""Makes the Python stubs of protos/ at every build and install, editable too; by hand: `python setup.py stubs`."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
PROTOS = ROOT / "protos"
SOURCES = ROOT / "services"
PACKAGE = Path("feinschliff", "v1")
OPTIONS = {
    "mypy": "quiet:",
    "mypy_grpc": "quiet,generate_concrete_servicer_stubs:",
}  # a room may leave methods unserved


class Stubs(Command):
    """Writes services/feinschliff/v1/*_pb2*.py and .pyi; files that did not change keep their time."""

    description = "make the Python stubs of protos/ in the source tree"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        make_stubs()

    def get_source_files(self) -> list[str]:
        return [str(path.relative_to(ROOT)) for path in contracts()]


class Build(build):
    """The ordinary build, stubs first."""

    sub_commands: ClassVar = [("stubs", None), *build.sub_commands]


def contracts() -> list[Path]:
    return sorted((PROTOS / PACKAGE).glob("*.proto"))


def make_stubs() -> None:
    with tempfile.TemporaryDirectory() as folder:
        compile_to(Path(folder))
        made = {path.name: path.read_bytes() for path in Path(folder, PACKAGE).iterdir()}
    target = SOURCES / PACKAGE
    for name, content in made.items():
        path = target / name
        if not path.exists() or path.read_bytes() != content:
            replace(path, content)
    for stale in set(target.glob("*_pb2*")) - {target / name for name in made}:
        stale.unlink()


def compile_to(folder: Path) -> None:
    from google.api import field_behavior_pb2
    from grpc_tools import protoc  # type: ignore[import-untyped]

    imports = Path(field_behavior_pb2.__file__).parents[2]
    builtin = Path(protoc.__file__).parent / "_proto"
    outputs = ["python", "grpc_python", "mypy", "mypy_grpc"]
    plugins = [f"--plugin={name}={program(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    arguments = [f"-I{PROTOS}", f"-I{imports}", f"-I{builtin}", *plugins]
    arguments += [f"--{output}_out={OPTIONS.get(output, '')}{folder}" for output in outputs]
    code = protoc.main(["protoc", *arguments, *(str(path.relative_to(PROTOS)) for path in contracts())])
    if code != 0:
        sys.exit(f"protoc refused the contracts in {PROTOS} (exit {code}); see its lines above.")


def program(name: str) -> str:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    return found or sys.exit(f"{name} is missing; `pip install mypy-protobuf` brings it.")


def replace(path: Path, content: bytes) -> None:
    """Whole or not at all, for a reader may import it meanwhile."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)


setup(cmdclass={"build": Build, "stubs": Stubs})
