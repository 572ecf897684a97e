"""The image `control`, installed step by step in a clean environment: small, whole, and without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contract.images.conftest import Installed
from tests.images.sbom import write
from tests.support.needs import PROGRAMS, reached

PACKAGES_MB_MAX = 340
ABSENT = ("torch", "transformers", "peft", "tensorboard", "typer", "rich", "pip", "setuptools", "grpc_tools", "pytest")

pytestmark = pytest.mark.timeout(300)  # the steps are run once, by the first test


def test_it_is_small(control: Installed, record_property: pytest.RecordProperty) -> None:
    size_mb = control.size_bytes() / 1e6
    record_property("packages_mb", round(size_mb, 1))

    assert 50 < size_mb < PACKAGES_MB_MAX


@pytest.mark.parametrize("module", PROGRAMS["control"])
def test_each_of_its_programs_imports(control: Installed, module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({ABSENT}) & set(sys.modules)))"

    assert control.run(code).split() == []


def test_all_that_its_programs_may_import_is_there(control: Installed) -> None:
    modules = sorted(name for name in reached("control") if name.partition(".")[0] == "feinschliff")

    assert len(modules) > 100
    control.run("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in modules))


def test_it_lacks_what_makes_it_and_what_others_need(control: Installed) -> None:
    code = f"import importlib.util as u; print(*[name for name in {ABSENT} if u.find_spec(name)])"

    assert control.run(code).split() == []


def test_its_command_names_a_wrong_setting(control: Installed) -> None:
    """The image's own command runs as far as the environment lets it."""
    code = (
        "import os, runpy\n"
        "os.environ['FEINSCHLIFF_S3_PORT'] = 'high'\n"
        "try: runpy.run_module('feinschliff.cli.control', run_name='__main__')\n"
        "except SystemExit as end: print(end.code)"
    )

    assert control.run(code).strip() == "2"


def test_its_bill_of_materials_lists_all_that_is_installed(control: Installed, tmp_path: Path) -> None:
    code = "from importlib.metadata import distributions as d; print(*(f'{one.name}=={one.version}' for one in d()))"

    count = write("control", control.folder, tmp_path / "control.cdx.json")

    listed = json.loads((tmp_path / "control.cdx.json").read_text("utf-8"))
    assert listed["metadata"]["component"]["name"] == "feinschliff/control"
    assert count > 50
    assert {f"{one['name']}=={one['version']}" for one in listed["components"]} == set(control.run(code).split())
