"""An S3 server behind https with a CA of its own."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from feinschliff.artifacts.connect import connect
from feinschliff.kit.errors import StartError, Unavailable
from feinschliff.kit.settings import Settings
from tests.support.certificates import Authority
from tests.support.relay import relay
from tests.support.s3 import S3Server


class Behind(NamedTuple):
    """The session's S3 server, as seen through https."""

    settings: dict[str, Any]
    ca: Path


@pytest.fixture
def behind(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> Iterator[Behind]:
    files = Authority().pair(tmp_path / "tls")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    with relay(int(s3_server.endpoint.rpartition(":")[2]), tls=context) as port:
        settings = {
            "s3_endpoint": f"https://127.0.0.1:{port}",
            "s3_access_key": s3_server.access_key,
            "s3_secret_key": s3_server.secret_key,
            "s3_bucket": s3_bucket,
        }
        yield Behind(settings, files.ca)


def test_a_store_is_trusted_by_the_ca_that_is_named(behind: Behind) -> None:
    store = connect(Settings(**behind.settings, s3_ca=behind.ca))
    store.check()
    store.put_bytes("key", b"value")
    assert store.get_bytes("key") == b"value"


def test_a_store_of_another_ca_is_not_spoken_to(behind: Behind, tmp_path: Path) -> None:
    other = Authority().pair(tmp_path / "other")
    for more in ({}, {"s3_ca": other.ca}):
        with pytest.raises(Unavailable, match=r"(?i)certificate"):
            connect(Settings(**behind.settings, **more)).check()


@pytest.mark.parametrize("content", [None, "no PEM"])
def test_a_ca_that_cannot_be_read_stops_the_start_by_name(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartError, match=rf"^FEINSCHLIFF_S3_CA: {path} cannot be read as PEM certificates: "):
        connect(Settings(s3_ca=path))
