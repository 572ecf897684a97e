"""The compose file, read by Docker Compose itself: every service is guarded, told nothing unknown, and on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from feinschliff.cli.settings import MigrateSettings, PlatformSettings
from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.inference.settings import InferenceSettings
from feinschliff.ingestion.settings import IngestionSettings
from feinschliff.kit.settings import ENV_PREFIX, Settings
from feinschliff.registry.settings import RegistrySettings
from feinschliff.training.settings import TrainingSettings
from tests.support.images import DOCKERFILE, ROOT, TARGETS, extras

FILE = ROOT / "deploy" / "compose" / "compose.yaml"
SETTINGS: Mapping[str, type[Settings]] = {
    "ingestion": IngestionSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
    "registry": RegistrySettings,
    "inference": InferenceSettings,
    "gateway": GatewaySettings,
    "migrate": MigrateSettings,
}
ROOMS = [name for name in SETTINGS if name != "migrate"]
SECRETS = {
    "POSTGRES_PASSWORD": "aaaa1111",
    "S3_ACCESS_KEY": "bbbb2222",
    "S3_SECRET_KEY": "cccc3333",
    "FEINSCHLIFF_GATEWAY_API_KEYS": "dddd4444=default",
}
EXACT_IMAGE = re.compile(r"[a-z0-9.-]+\.[a-z]+/[a-z0-9./_-]+:(v?\d+\.\d+[\w.-]*|RELEASE\.[\w-]+)")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def configured(given: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("docker-compose")
    command = [program, f"--file={FILE}", "--env-file=/dev/null", "config", "--format=json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(given))


@cache
def services() -> dict[str, Any]:
    done = configured(SECRETS)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["services"])


def test_all_rooms_are_there_and_what_they_need() -> None:
    assert set(services()) == {*ROOMS, "migrate", "postgres", "minio"}


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_that_nobody_set_stops_it_by_name(secret: str) -> None:
    done = configured({name: value for name, value in SECRETS.items() if name != secret})

    assert done.returncode != 0
    assert f"required variable {secret} is missing" in done.stderr


def test_no_secret_is_written_down() -> None:
    for name, value in _leaves(yaml.safe_load(FILE.read_text("utf-8"))):
        if re.search("PASSWORD|SECRET|KEY|TOKEN", name):
            assert re.fullmatch(r"\$\{\w+:\?[^}]*\}", value), f"{name} is {value!r}"
        assert not re.search(r"://[^$/@]*:[^$/@]+@", value), f"{name} carries a password: {value!r}"


@pytest.mark.parametrize("name", [*SETTINGS, "postgres", "minio"])
def test_ports_are_on_loopback(name: str) -> None:
    for port in services()[name].get("ports", ()):
        assert port["host_ip"] == "127.0.0.1", f"{name} publishes {port}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_service_is_published_at_its_own_port(room: str) -> None:
    (port,) = services()[room]["ports"]

    assert port["target"] == int(port["published"]) == PlatformSettings.model_fields[f"{room}_port"].default


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_is_told_settings_that_it_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = services()[name]["environment"]
    settings = SETTINGS[name]
    known = {f"{ENV_PREFIX}{field.upper()}" for field in settings.model_fields}

    assert set(told) <= known
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)
    assert settings().s3_access_key == SECRETS["S3_ACCESS_KEY"]


@pytest.mark.parametrize("room", ROOMS)
def test_addresses_are_those_of_the_services(room: str) -> None:
    told = {name: value for name, value in services()[room]["environment"].items() if name.endswith("_ADDRESS")}

    assert len(told) == len(ROOMS) - 1
    for name, value in told.items():
        other = name.removeprefix(ENV_PREFIX).removesuffix("_ADDRESS").lower()
        assert value == f"{other}:{services()[other]['ports'][0]['target']}"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_runs_its_module_in_an_image_that_can(name: str) -> None:
    service = services()[name]
    image = re.fullmatch(rf"ghcr\.io/feinschliff/(\w+):{re.escape(VERSION)}", service["image"])

    assert image is not None
    assert service["build"]["target"] == image[1]
    assert image[1] in TARGETS
    assert Path(service["build"]["context"], service["build"]["dockerfile"]) == DOCKERFILE
    assert service["command"] == ["feinschliff.cli.migrate" if name == "migrate" else f"feinschliff.{name}"]
    if name in ("training", "inference"):  # attempts are subprocesses of training here
        assert "torch" in extras(image[1])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_can_change_nothing_but_its_home(name: str) -> None:
    service = services()[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]
    assert "user" not in service  # the image's own, which is not root
    assert not service.get("privileged")
    assert {one["target"] for one in service.get("volumes", ())} <= {"/var/lib/feinschliff"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_service_waits_for_the_tables_and_says_when_it_is_ready(room: str) -> None:
    service = services()[room]

    assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    test = service["healthcheck"]["test"]
    assert test[0] == "CMD"
    assert f":{service['environment']['FEINSCHLIFF_PROBE_PORT']}" in test[-1]


@pytest.mark.parametrize("room", ROOMS)
def test_a_stop_leaves_time_to_drain(room: str) -> None:
    fields = SETTINGS[room].model_fields
    seconds = float(services()[room]["stop_grace_period"].removesuffix("s"))

    assert seconds > fields["drain_seconds"].default + fields["grace_seconds"].default


def test_tables_come_after_database_and_store() -> None:
    waits = services()["migrate"]["depends_on"]

    assert {name: one["condition"] for name, one in waits.items()} == {
        "postgres": "service_healthy",
        "minio": "service_healthy",
    }


@pytest.mark.parametrize("name", [*SETTINGS, "postgres", "minio"])
def test_images_are_pinned(name: str) -> None:
    assert EXACT_IMAGE.fullmatch(services()[name]["image"])


def test_all_are_on_one_network() -> None:
    assert {tuple(service["networks"]) for service in services().values()} == {("feinschliff",)}


def _leaves(tree: object, name: str = "") -> list[tuple[str, str]]:
    match tree:
        case dict():
            return [leaf for key, value in tree.items() for leaf in _leaves(value, str(key))]
        case list():
            return [leaf for value in tree for leaf in _leaves(value, name)]
        case _:
            return [(name, str(tree))]
