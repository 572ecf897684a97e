"""Addresses follow from ports, and what the environment says goes before."""

from __future__ import annotations

import pytest

from feinschliff.cli.demo import environment, settings_of
from feinschliff.cli.keys import S3Keys
from feinschliff.cli.settings import PORTS, PlatformSettings, platform_settings, variable, with_free_ports
from feinschliff.cli.supervisor import environment_of
from feinschliff.kit.errors import StartError
from tests.unit.cli.test_cli_state import own, state


def test_the_defaults_are_those_of_the_services() -> None:
    settings = platform_settings()
    ports = [settings.ports()[name] for name in PORTS]
    assert ports == [8080, 50051, 50052, 50053, 50054, 50055, 9100, 9101, 9102, 9103, 9104, 9105, 8333]
    assert settings.inference_address == "127.0.0.1:50055"
    assert settings.has_embedded_s3


def test_an_address_follows_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_TRAINING_PORT", "6002")
    monkeypatch.setenv("FEINSCHLIFF_S3_PORT", "6333")
    settings = platform_settings()
    assert settings.training_address == "127.0.0.1:6002"
    assert settings.s3_endpoint == "http://127.0.0.1:6333"
    assert settings.has_embedded_s3


def test_an_address_that_is_named_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_TRAINING_PORT", "6002")
    monkeypatch.setenv("FEINSCHLIFF_TRAINING_ADDRESS", "training.example:50052")
    assert platform_settings().training_address == "training.example:50052"


def test_another_s3_server_keeps_ours_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_S3_ENDPOINT", "http://127.0.0.1:9000")
    settings = platform_settings()
    assert not settings.has_embedded_s3
    assert "s3_port" not in settings.ports()


def test_a_wrong_port_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_GATEWAY_PORT", "eighty")
    with pytest.raises(StartError, match="FEINSCHLIFF_GATEWAY_PORT"):
        platform_settings()


def test_a_port_of_zero_becomes_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PORTS[:3]:
        monkeypatch.setenv(variable(name), "0")
    settings = with_free_ports(platform_settings())
    chosen = [settings.ports()[name] for name in PORTS[:3]]
    assert 0 not in chosen
    assert len(set(chosen)) == 3
    assert settings.ingestion_address == f"127.0.0.1:{settings.ingestion_port}"
    assert settings.inference_port == 50055


def test_services_are_told_where_all_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_REGISTRY_PORT", "6004")
    told = environment_of(platform_settings(), S3Keys("access", "secret"))
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    heard = PlatformSettings()
    assert heard.registry_address == "127.0.0.1:6004"
    assert heard.home.is_absolute()
    assert (heard.s3_access_key, heard.s3_secret_key.get_secret_value()) == ("access", "secret")


def test_a_demo_touches_no_other_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_ENDPOINT", "TRAINING_ADDRESS", "DATABASE_URL", "S3_ACCESS_KEY", "S3_BUCKET"):
        monkeypatch.setenv(f"FEINSCHLIFF_{name}", "another-platform")
    monkeypatch.setenv("FEINSCHLIFF_GATEWAY_PORT", "8080")
    home = platform_settings().home.absolute() / "demo"
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    settings = with_free_ports(platform_settings())
    assert "another-platform" not in str(settings)
    assert settings.gateway_port != 8080
    assert settings.has_embedded_s3
    assert settings.home == home


def test_the_demo_calls_its_own_platform_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_TRAINING_ADDRESS", "another-platform:1")
    running = state(own()).model_copy(
        update={
            "ports": {name: 7000 + index for index, name in enumerate(PORTS)},
            "s3_endpoint": "http://127.0.0.1:7012",
        }
    )
    settings = settings_of(platform_settings().home, running)
    assert settings.training_address == "127.0.0.1:7002"
    assert settings.gateway_url == "http://127.0.0.1:7000"
