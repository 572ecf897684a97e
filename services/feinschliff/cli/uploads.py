"""A file on its way to a dataset: what is said before the bytes, and the bytes in chunks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feinschliff.cli.services import Services, refusals
from feinschliff.v1 import ingestion_pb2 as pb

CHUNK_BYTES = 512 * 1024
SECONDS_MAX = 6 * 3600.0
FORMATS = {
    name.removeprefix("ROW_FORMAT_").lower(): number
    for name, number in pb.RowFormat.items()
    if number != pb.ROW_FORMAT_UNSPECIFIED
}
_UNFIT = re.compile(r"[^a-z0-9._]+")


@dataclass(frozen=True)
class Split:
    """Shares of the rows, 0 to 1; what is left is for training."""

    validation: float = 0.1
    test: float = 0.0
    seed: int = 0

    def to_proto(self) -> pb.SplitSpec:
        return pb.SplitSpec(
            train_fraction=1 - self.validation - self.test,
            validation_fraction=self.validation,
            test_fraction=self.test,
            seed=self.seed,
        )


def dataset_id(file: Path) -> str:
    """An id after the name of the file: `My Rows.jsonl` gives `my-rows`."""
    return _UNFIT.sub("-", file.stem.lower()).strip("-._")[:64].rstrip("-._") or "data"


def header(
    dataset: str,
    file: Path,
    *,
    format_: str = "auto",
    split: Split = Split(),
    skip_bad_rows: bool = False,
    validate_only: bool = False,
) -> pb.UploadHeader:
    return pb.UploadHeader(
        parent=dataset,
        filename=file.name,
        format=FORMATS[format_],
        split=split.to_proto(),
        on_bad_row=pb.ON_BAD_ROW_SKIP if skip_bad_rows else pb.ON_BAD_ROW_REFUSE,
        size_bytes=file.stat().st_size,
        create_dataset_if_missing=True,
        validate_only=validate_only,
    )


def send(services: Services, header_: pb.UploadHeader, file: Path) -> pb.DatasetVersion:
    """The version that the file became; raises what the service refuses it for."""
    with refusals():
        return services.datasets.UploadDatasetVersion(_messages(header_, file), timeout=SECONDS_MAX)


def _messages(header_: pb.UploadHeader, file: Path) -> Iterator[pb.UploadDatasetVersionRequest]:
    yield pb.UploadDatasetVersionRequest(header=header_)
    with file.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield pb.UploadDatasetVersionRequest(chunk=chunk)
