"""One ingestion process for each file of tests; those that kill it start their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.ingestion.running import Ingestion, ingestion_on
from tests.support.s3 import S3Server


@pytest.fixture
def tables_of() -> str:
    return "ingestion"


@pytest.fixture(scope="module")
def ingestion(s3_server: S3Server, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingestion]:
    bucket = f"ingestion-{uuid.uuid4().hex[:10]}"
    s3_server.store(bucket)
    folder = tmp_path_factory.mktemp("ingestion")
    running = ingestion_on(
        s3_server,
        bucket,
        folder,
        f"sqlite:///{folder / 'ingestion.db'}",
        ingestion_tokenizer_base=f"file:{tiny_model}",
        ingestion_line_bytes_max="20000",
        ingestion_dataset_bytes_max="20000000",
        ingestion_uploads_max="4",
    )
    running.process.start_and_wait()
    yield running
    running.process.close()
    s3_server.drop_bucket(bucket)
