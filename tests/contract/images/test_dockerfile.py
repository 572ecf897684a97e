"""What the Dockerfile promises of every image, read from the file itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.images import DOCKERFILE, ROOT, TARGETS, arguments, extras, lineage, stages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXACT_TAG = re.compile(r"[a-z0-9.-]+\.[a-z]+/[a-z0-9./_-]+:v?\d+\.\d+\.\d+[\w.-]*")
MODULE = re.compile(r"feinschliff(\.[a-z_]+)+|vllm\.entrypoints\.openai\.api_server")


def last(target: str, keyword: str) -> str:
    """The instruction that holds: of the target's own stage, else of those that it is built on."""
    return [value for stage in lineage(target) for value in stage.values(keyword)][-1]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_by_number(target: str) -> None:
    assert last(target, "USER") == "10001:10001"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("keyword", ["ENTRYPOINT", "CMD"])
def test_its_process_is_no_shells_child(target: str, keyword: str) -> None:
    form = json.loads(last(target, keyword))

    assert isinstance(form, list)
    assert all(isinstance(word, str) for word in form)


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_a_module_that_is_there(target: str) -> None:
    assert json.loads(last(target, "ENTRYPOINT")) == ["/opt/feinschliff/bin/python", "-m"]
    (module,) = json.loads(last(target, "CMD"))

    assert MODULE.fullmatch(module)
    if module.startswith("feinschliff"):
        path = ROOT / "services" / Path(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("target", TARGETS)
def test_it_is_labelled(target: str) -> None:
    labels = " ".join(value for stage in lineage(target) for value in stage.values("LABEL"))

    for name in ("title", "description", "vendor", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert f'title="feinschliff/{target}"' in labels


@pytest.mark.parametrize("target", TARGETS)
def test_extras_of_a_target_are_those_of_the_project(target: str) -> None:
    assert set(extras(target)) <= set(PROJECT["optional-dependencies"])


def test_trainer_and_inference_share_their_layers() -> None:
    assert stages()["trainer"].base == stages()["inference"].base


def test_bases_are_pinned() -> None:
    given = arguments()
    for stage in stages().values():
        if stage.base not in stages() and stage.base != "scratch":
            name = stage.base.removeprefix("${").removesuffix("}")
            assert EXACT_TAG.fullmatch(given[name]), f"{stage.name} is built on {given[name]}"


def test_nothing_is_fetched_but_by_pip() -> None:
    for stage in stages().values():
        assert not stage.values("ADD")
        for run in stage.values("RUN"):
            assert not re.search(r"\b(apt-get|apt|curl|wget|git)\b", run), run


def test_images_hold_nothing_of_the_stages_that_make_them() -> None:
    for target in TARGETS:
        for stage in lineage(target):
            for run in stage.values("RUN"):
                assert "pip install" not in run
                assert "install.py" not in run, f"{stage.name} is in an image and makes something"


def test_no_argument_is_a_secret() -> None:
    names = [value.partition("=")[0] for stage in stages().values() for value in stage.values("ARG")]

    assert not [name for name in names if re.search("PASSWORD|TOKEN|SECRET|KEY", name)]


def test_what_a_build_is_sent_is_listed() -> None:
    """Secrets, data and caches of a work tree never reach a builder: nothing does that is not named."""
    first, *rest = [
        line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")
    ]
    named = {line.removeprefix("!") for line in rest if line.startswith("!")}
    copied = {
        source
        for stage in stages().values()
        for value in stage.values("COPY")
        if "--from" not in value
        for source in value.split()[:-1]
    }

    assert first == "*"
    assert named == copied
