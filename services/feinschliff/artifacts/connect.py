"""From settings to an open store, and the question whether it answers."""

from __future__ import annotations

from collections.abc import Callable

from feinschliff.artifacts.s3 import S3Settings, S3Store
from feinschliff.kit.settings import Settings


def connect(settings: Settings) -> S3Store:
    """The store that the settings name; nothing is asked of it yet."""
    return S3Store(
        S3Settings(
            endpoint=settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
            bucket=settings.s3_bucket,
            region=settings.s3_region,
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
