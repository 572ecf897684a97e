"""The check of the contracts finds what it is there for, and building the package makes the stubs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from protos.check import OURS, PROTOS

ROOT = PROTOS.parent
COMMON = f"{OURS}/common.proto"


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    shutil.copytree(PROTOS, tmp_path / "protos")
    return tmp_path / "protos"


def edit(contracts: Path, name: str, old: str, new: str) -> None:
    path = contracts / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def run(contracts: Path, act: str = "check") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROTOS / "check.py"), act, "--protos", str(contracts)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_the_contracts_pass_lint_and_break_nobody() -> None:
    done = run(PROTOS)
    assert (done.returncode, done.stdout) == (0, "contracts: 0 findings\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("  string unit = 4;", "", 'field "4" with name "unit" on message "Progress" was deleted'),
        ("  string unit = 4;", "  bytes unit = 4;", 'Field "4" with name "unit" on message "Progress" changed type'),
        ("  string unit = 4;", "  string units = 4;", "changed name"),
        ("  ROLE_TOOL = 5;", "  ROLE_TOOLS = 5;", "ROLE_TOOL"),
        (
            "  string unit = 4;",
            "  string unit = 4 [(google.api.field_behavior) = REQUIRED];",
            'Field "unit" on message "feinschliff.v1.Progress" became REQUIRED',
        ),
    ],
    ids=["dropped", "retyped", "renamed", "enum value renamed", "newly required"],
)
def test_a_change_that_breaks_clients_is_caught(contracts: Path, old: str, new: str, finding: str) -> None:
    edit(contracts, COMMON, old, new)
    done = run(contracts)
    assert done.returncode == 1
    assert finding in done.stdout


@pytest.mark.parametrize(
    ("new", "finding"),
    [
        ("  string unit = 4;\n  // A name in the wrong form.\n  string badName = 6;", "should be lower_snake_case"),
        ("  string unit = 4;\n  string unsaid = 6;", "should have a non-empty comment"),
    ],
    ids=["bad name", "no comment"],
)
def test_lint_catches(contracts: Path, new: str, finding: str) -> None:
    edit(contracts, COMMON, "  string unit = 4;", new)
    done = run(contracts)
    assert done.returncode == 1
    assert finding in done.stdout


def test_a_new_field_breaks_nobody(contracts: Path) -> None:
    edit(contracts, COMMON, "  string unit = 4;", "  string unit = 4;\n  // More about the unit.\n  string note = 6;")
    assert run(contracts).returncode == 0


def test_a_dropped_field_is_released_only_with_its_number_and_name_reserved(contracts: Path) -> None:
    edit(contracts, COMMON, "  string unit = 4;", "")
    refused = run(contracts, "release")
    assert refused.returncode == 1
    assert "without reserving the number" in refused.stdout
    edit(contracts, COMMON, "message Progress {", 'message Progress {\n  reserved 4;\n  reserved "unit";')
    assert run(contracts, "release").returncode == 0
    assert run(contracts).returncode == 0


def test_a_contract_that_does_not_compile_is_no_pass(contracts: Path) -> None:
    edit(contracts, COMMON, "  string unit = 4;", "  string unit = ;")
    done = run(contracts)
    assert done.returncode == 1
    assert "common.proto" in done.stderr


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_building_the_package_makes_the_stubs(tmp_path: Path, kind: str) -> None:
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").write_text("# Feinschliff\n")
    (tmp_path / "LICENSE").write_text("Apache-2.0\n")
    package = Path("services", "feinschliff")
    shutil.copytree(PROTOS, tmp_path / "protos")
    (tmp_path / package / "v1").mkdir(parents=True)
    for name in ("__init__.py", "v1/__init__.py"):
        shutil.copy(ROOT / package / name, tmp_path / package / name)
    build = f"from setuptools import build_meta; print(build_meta.build_{kind}('out'))"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, timeout=100, check=True)
    made = {path.name for path in (tmp_path / package / "v1").glob("*_pb2*")}
    assert {"training_pb2.py", "training_pb2.pyi", "training_pb2_grpc.py", "training_pb2_grpc.pyi"} <= made
    (wheel,) = (tmp_path / "out").glob("*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, timeout=30, check=True
    )
    assert ("feinschliff/v1/training_pb2.pyi" in listed.stdout) == (kind == "wheel")
