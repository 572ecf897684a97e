"""Settings from the environment."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError

from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import Settings, is_loopback, read_settings


class SmallSettings(Settings):
    """As a room has them."""

    small_port: int = Field(50051, ge=0, le=65535)
    small_token: SecretStr = Field(SecretStr("long enough"), min_length=8)


def test_defaults_run_on_one_machine() -> None:
    settings = read_settings(Settings)
    assert settings.bind_host == "127.0.0.1"
    assert settings.s3_endpoint == "http://127.0.0.1:8333"
    assert settings.database_url_for("training") == f"sqlite:///{Path('.feinschliff').absolute()}/db/training.db"


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_SMALL_PORT", "0")
    monkeypatch.setenv("FEINSCHLIFF_HOME", "/srv/x")
    settings = read_settings(SmallSettings)
    assert settings.small_port == 0
    assert settings.database_url_for("small") == "sqlite:////srv/x/db/small.db"


def test_one_postgresql_url_serves_all_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_DATABASE_URL", "postgresql://db/feinschliff?options=%7Bx%7D")
    assert read_settings(Settings).database_url_for("a") == read_settings(Settings).database_url_for("b")


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_SMALL_PORT", "")
    assert read_settings(SmallSettings).small_port == 50051


def test_they_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        read_settings(Settings).offline = True


def test_every_wrong_variable_is_named_in_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_SMALL_PORT", "70000")
    monkeypatch.setenv("FEINSCHLIFF_DRAIN_SECONDS", "soon")
    with pytest.raises(StartError) as caught:
        read_settings(SmallSettings)
    by_name = dict(problem.split(": ", 1) for problem in caught.value.problems)
    assert set(by_name) == {"FEINSCHLIFF_SMALL_PORT", "FEINSCHLIFF_DRAIN_SECONDS"}
    assert "65535" in by_name["FEINSCHLIFF_SMALL_PORT"]
    assert "70000" in by_name["FEINSCHLIFF_SMALL_PORT"]
    assert "'soon'" in by_name["FEINSCHLIFF_DRAIN_SECONDS"]


def test_a_wrong_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_SMALL_TOKEN", "hunter2")
    with pytest.raises(StartError) as caught:
        read_settings(SmallSettings)
    assert "FEINSCHLIFF_SMALL_TOKEN" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_secret_does_not_show_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_S3_SECRET_KEY", "hunter2")
    assert "hunter2" not in repr(read_settings(Settings))


def test_a_program_is_given_the_settings_that_are_named_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(tls_ca=Path("ca.pem"), tls_key=Path("k"), tls_certificate=Path("c"), offline=True, s3_region="eu")
    environment = given.environment("tls_ca", "s3_ca", "otlp_endpoint", "trace_sample_ratio", "offline", "s3_region")
    assert environment == {
        "FEINSCHLIFF_TLS_CA": str(Path("ca.pem").absolute()),
        "FEINSCHLIFF_TRACE_SAMPLE_RATIO": "0.1",
        "FEINSCHLIFF_OFFLINE": "true",
        "FEINSCHLIFF_S3_REGION": "eu",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FEINSCHLIFF_TLS_CA")
    assert read_settings(Settings).s3_region == "eu"
    with pytest.raises(AssertionError):
        given.environment("s3_secret_key")


def test_binding_beyond_loopback_must_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEINSCHLIFF_BIND_HOST", "0.0.0.0")
    with pytest.raises(StartError, match=r"^FEINSCHLIFF_BIND_HOST: .*FEINSCHLIFF_INSECURE_BIND"):
        read_settings(Settings)
    monkeypatch.setenv("FEINSCHLIFF_INSECURE_BIND", "true")
    assert read_settings(Settings).bind_host == "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "")),
    ],
)
def test_what_counts_as_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
