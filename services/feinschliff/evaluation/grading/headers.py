"""Headers with secrets for endpoint graders: each goes where the installation says, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

_PORTS = {"https": 443, "http": 80}
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_UPWARDS = re.compile(r"[/\\]\.\.?([/\\;]|$)")


def clean_secret(secret: SecretStr) -> SecretStr:
    """Without blanks and line ends around it, as files of secrets often have them.

    Raises:
        ValueError: it has signs that no header may have; the text does not repeat it.
    """
    text = secret.get_secret_value().strip()
    if not _VALUE.fullmatch(text):
        raise ValueError("has a sign that no header may have, such as a line end")
    return SecretStr(text)


class SecretHeaders(BaseModel):
    """What is sent along to URLs below `url_prefix`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url_prefix: str
    headers: Mapping[str, SecretStr] = Field(min_length=1)

    @field_validator("url_prefix")
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        is_whole = parts.scheme in _PORTS and bool(parts.hostname) and parts.username is None
        if not is_whole or parts.query or parts.fragment or _is_upwards(parts.path):
            raise ValueError("must be http(s)://host/path")
        return url

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        clean = {name.strip(): clean_secret(value) for name, value in headers.items()}
        if not all(map(_NAME.fullmatch, clean)):
            raise ValueError("a header's name is letters, digits and -")
        return clean

    def are_for(self, url: str) -> bool:
        """Whether `url` has the prefix's scheme, host and port, and a path that is the prefix's or lies below it."""
        wanted, parts = urlsplit(self.url_prefix), urlsplit(url)
        if _origin(wanted) != _origin(parts) or parts.username is not None:
            return False
        folder = wanted.path.rstrip("/")
        is_below = parts.path == folder or parts.path.startswith(f"{folder}/")
        return is_below and not (folder and _is_upwards(parts.path))


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def _is_upwards(path: str) -> bool:
    """Whether a server could read the path as another one: by dots between slashes, however they are written."""
    return _UPWARDS.search(unquote(unquote(path))) is not None
