"""One platform for a module: every service a process."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kernels import brought_kernels
from tests.support.platform import Platform
from tests.support.s3 import S3Server

__all__ = ["brought_kernels"]


@pytest.fixture(scope="module")
def platform(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    bucket = f"e2e-{uuid.uuid4().hex[:12]}"
    s3_server.store(bucket)
    running = Platform(tmp_path_factory.mktemp("platform"), s3_server, bucket)
    running.start()
    yield running
    running.stop()
    s3_server.drop_bucket(bucket)


@pytest.fixture(scope="session")
def base(tiny_model: Path) -> str:
    """URI of the tiny base model."""
    return f"file:{tiny_model}"
