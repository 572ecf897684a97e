"""The environment of a platform on one machine: that of every service, and of the S3 server beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from feinschliff.cli.free_ports import LOOPBACK, free_ports
from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.inference.settings import InferenceSettings
from feinschliff.ingestion.settings import IngestionSettings
from feinschliff.kit.settings import ENV_PREFIX, Settings, read_settings
from feinschliff.registry.settings import RegistrySettings
from feinschliff.training.settings import TrainingSettings

SERVICES = ("ingestion", "training", "evaluation", "registry", "inference")
ROOMS = ("gateway", *SERVICES)
PORTS = (*(f"{room}_port" for room in ROOMS), *(f"{room}_metrics_port" for room in ROOMS), "s3_port")


class PlatformSettings(
    GatewaySettings, IngestionSettings, TrainingSettings, EvaluationSettings, RegistrySettings, InferenceSettings
):
    """All settings of all services; addresses that nobody sets follow from the ports."""

    s3_port: int = Field(8333, ge=0, le=65535, description="Port of the embedded S3 server; 0 takes a free one.")
    drain_seconds: float = Field(0, ge=0, description="From NOT_SERVING to refusing calls; no router here needs it.")
    call_timeout_seconds: float = Field(30, gt=0, description="Deadline of a unary call that brings none.")
    check_seconds: float = Field(0.25, gt=0, description="Between two looks at a dependency.")

    @model_validator(mode="before")
    @classmethod
    def _addresses_follow_ports(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        filled = dict(given)
        for room in SERVICES:
            if f"{room}_port" in given:
                filled.setdefault(f"{room}_address", f"{LOOPBACK}:{given[f'{room}_port']}")
        if "s3_port" in given:
            filled.setdefault("s3_endpoint", _embedded_endpoint(given["s3_port"]))
        return filled

    @property
    def has_embedded_s3(self) -> bool:
        """False where the environment names an S3 server of its own; then none is started."""
        return self.s3_endpoint == _embedded_endpoint(self.s3_port)

    @property
    def gateway_url(self) -> str:
        return f"http://{self.http_host}:{self.gateway_port}"

    def address_of(self, room: str) -> str:
        return str(getattr(self, f"{room}_address"))

    def ports(self) -> dict[str, int]:
        """Every port that a platform with these settings listens on, by the name of its setting."""
        names = PORTS if self.has_embedded_s3 else PORTS[:-1]
        return {name: int(getattr(self, name)) for name in names}


class MigrateSettings(Settings):
    """The environment of the program that migrates every room's tables."""

    migrate_wait_seconds: float = Field(
        120, ge=0, description="How long migrations wait for a database that does not answer before they fail."
    )


def platform_settings(**given: object) -> PlatformSettings:
    """The environment's settings; `given` goes before it.

    Raises:
        StartError: one line for each wrong variable, naming it.
    """
    return read_settings(PlatformSettings) if not given else PlatformSettings(**given)  # type: ignore[arg-type]


def with_free_ports(settings: PlatformSettings) -> PlatformSettings:
    """The same settings with a free port in place of every 0."""
    wanted = [name for name, port in settings.ports().items() if port == 0]
    if not wanted:
        return settings
    return platform_settings(**dict(zip(wanted, free_ports(len(wanted)), strict=True)))


def variable(setting: str) -> str:
    """The environment variable of a setting."""
    return f"{ENV_PREFIX}{setting.upper()}"


def _embedded_endpoint(port: object) -> str:
    return f"http://{LOOPBACK}:{port}"
