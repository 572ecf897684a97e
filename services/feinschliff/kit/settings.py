"""The environment, read once: settings that all services share, and precise errors for wrong ones."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from feinschliff.kit.errors import StartError

ENV_PREFIX = "FEINSCHLIFF_"


class Settings(BaseSettings):
    """Shared by every service; FEINSCHLIFF_DATABASE_URL sets `database_url`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(Path(".feinschliff"), description="Folder of all local state.")
    database_url: str = Field(
        "sqlite:///{home}/db/{room}.db",
        description="SQLAlchemy URL; {home} and {room} are filled in. PostgreSQL on a cluster, one URL for all rooms.",
    )
    s3_endpoint: str = Field("http://127.0.0.1:8333", description="URL of the S3 server, http or https.")
    s3_access_key: str = Field("", description="Public half of the S3 key pair.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Secret half of the S3 key pair.")
    s3_bucket: str = Field("feinschliff", description="Bucket that holds every artifact.")
    s3_region: str = Field("us-east-1", description="Region that requests are signed for.")
    s3_ca: Path | None = Field(None, description="PEM file of CAs that an https S3 is trusted by; empty: the system's.")
    bind_host: str = Field("127.0.0.1", description="Address to listen on.")
    insecure_bind: bool = Field(
        False, description="Allows `bind_host` beyond loopback although gRPC ports ask for no key and no certificate."
    )
    probe_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Plain-text gRPC port that answers health alone, for all rooms of the process; 0: none.",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate that gRPC servers and clients show; empty: plain text."
    )
    tls_key: Path | None = Field(None, description="PEM file of its key.")
    tls_ca: Path | None = Field(None, description="PEM file of the CA that the other side's certificate is held to.")
    tls_client_certificates: bool = Field(
        True, description="With TLS, whether gRPC servers turn clients away that show no certificate of that CA."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_format: Literal["json", "text"] = Field("json", description="JSON lines, or text for people.")
    drain_seconds: float = Field(5, ge=0, description="From NOT_SERVING to refusing calls.")
    grace_seconds: float = Field(20, ge=0, description="From refusing calls to cutting those that still run.")
    check_seconds: float = Field(1, gt=0, description="Between two looks at a dependency.")
    check_timeout_seconds: float = Field(5, gt=0, description="A dependency that takes longer counts as down.")
    call_timeout_seconds: float = Field(30, gt=0, description="Deadline of a unary call that brings none.")
    offline: bool = Field(False, description="Refuses whatever would leave this installation, such as hf: bases.")
    otlp_endpoint: str = Field(
        "", description="host:port or URL of an OpenTelemetry collector (OTLP over gRPC); empty: no traces are kept."
    )
    trace_sample_ratio: float = Field(
        0.1, ge=0, le=1, description="Share of the traces that begin here which are kept; others follow their caller."
    )
    failpoints: str = Field("", description="Faults on purpose, for tests: name=kill@n;name=raise;name=delay:seconds.")
    ingestion_address: str = Field("127.0.0.1:50051", description="host:port of the ingestion service.")
    training_address: str = Field("127.0.0.1:50052", description="host:port of the training service.")
    evaluation_address: str = Field("127.0.0.1:50053", description="host:port of the evaluation service.")
    registry_address: str = Field("127.0.0.1:50054", description="host:port of the registry service.")
    inference_address: str = Field("127.0.0.1:50055", description="host:port of the inference service.")

    @model_validator(mode="after")
    def _names_all_of_tls(self) -> "Settings":
        files = {"CERTIFICATE": self.tls_certificate, "KEY": self.tls_key, "CA": self.tls_ca}
        given = [name for name, path in files.items() if path is not None]
        missing = [f"{ENV_PREFIX}TLS_{name}" for name in files if name not in given]
        if given and missing:
            raise ValueError(f"{missing[0]}: is empty while {ENV_PREFIX}TLS_{given[0]} is set; set all three, or none")
        return self

    @model_validator(mode="after")
    def _binds_safely(self) -> "Settings":
        asks_for_certificates = self.tls_certificate is not None and self.tls_client_certificates
        if not asks_for_certificates and not self.insecure_bind and not is_loopback(self.bind_host):
            raise ValueError(
                f"{ENV_PREFIX}BIND_HOST: {self.bind_host!r} is reachable from other machines and gRPC ports ask for no"
                f" key; use 127.0.0.1, let clients show certificates ({ENV_PREFIX}TLS_CERTIFICATE and its fellows), or"
                f" set {ENV_PREFIX}INSECURE_BIND=true where a network policy guards the ports"
            )
        return self

    def database_url_for(self, room: str) -> str:
        """The room's own database URL: {home} and {room} filled in, home absolute."""
        return self.database_url.replace("{home}", str(self.home.absolute())).replace("{room}", room)

    def environment(self, *names: str) -> dict[str, str]:
        """What a program is started with so that it has these settings too; one that is not set is left out.

        Paths are made absolute; no secret may be named.
        """
        values = {name: getattr(self, name) for name in names}
        assert not any(isinstance(value, SecretStr) for value in values.values()), names
        return {
            f"{ENV_PREFIX}{name.upper()}": _as_variable(value)
            for name, value in values.items()
            if value is not None and value != ""
        }


def _as_variable(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Path():
            return str(value.absolute())
        case _:
            return str(value)


S = TypeVar("S", bound=Settings)


def read_settings(settings_type: type[S]) -> S:
    """Settings from the environment.

    Raises:
        StartError: one line for each wrong variable, naming it; secrets are not repeated.
    """
    try:
        return settings_type()
    except ValidationError as error:
        raise StartError(_problems(settings_type, error)) from None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _problems(settings_type: type[Settings], error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        if not problem["loc"]:
            lines.append(problem["msg"].removeprefix("Value error, "))
            continue
        name = str(problem["loc"][0])
        field = settings_type.model_fields.get(name)
        secret = field is not None and "SecretStr" in repr(field.annotation)
        value = "(secret)" if secret else repr(problem["input"])
        lines.append(f"{ENV_PREFIX}{name.upper()}: {problem['msg']}; got {value}")
    return lines
