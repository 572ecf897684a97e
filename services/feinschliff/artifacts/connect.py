"""From settings to an open store, and the question whether it answers."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from feinschliff.artifacts.s3 import PART_BYTES, S3Settings, S3Store
from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import ENV_PREFIX, Settings


def connect(settings: Settings, *, part_bytes: int = PART_BYTES) -> S3Store:
    """The store that the settings name; nothing is asked of it yet.

    Raises:
        StartError: the CAs that it is trusted by cannot be read.
    """
    if settings.s3_ca is not None:
        _check_ca(settings.s3_ca)
    return S3Store(
        S3Settings(
            endpoint=settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
            bucket=settings.s3_bucket,
            region=settings.s3_region,
            ca=settings.s3_ca,
            part_bytes=part_bytes,
        )
    )


def readiness(store: S3Store) -> Callable[[], None]:
    """A check for `Room.checks`; makes the bucket the first time that the store answers."""
    made = False

    def check() -> None:
        nonlocal made
        if not made:
            store.ensure_bucket()
            made = True
        store.check()

    return check


def _check_ca(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # SSLError is one
        raise StartError([f"{ENV_PREFIX}S3_CA: {path} cannot be read as PEM certificates: {error}"]) from None
