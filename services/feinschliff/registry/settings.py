"""The environment of the registry service."""

from __future__ import annotations

from pydantic import Field

from feinschliff.kit.settings import Settings


class RegistrySettings(Settings):
    """FEINSCHLIFF_REGISTRY_PORT sets `registry_port`."""

    registry_port: int = Field(50054, ge=0, le=65535, description="Port of the gRPC server.")
    registry_metrics_port: int = Field(9104, ge=0, le=65535, description="Port of the metrics.")
