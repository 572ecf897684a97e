"""What an uploader says before the bytes, and what of it is refused at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from feinschliff.ingestion import refusals
from feinschliff.ingestion.intake import Limits, Wanted
from feinschliff.ingestion.model import DATASET
from feinschliff.ingestion.readers import READERS
from feinschliff.ingestion.split import checked_split
from feinschliff.ingestion.texts import check_pairs, check_text
from feinschliff.kit.errors import FieldViolation, Invalid

REQUEST_ID_CHARACTERS_MAX = 64
FILENAME_CHARACTERS_MAX = 255
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Header:
    """A wish for a new version; `digest` is of all that decides what is made of the same bytes."""

    project: str
    dataset: str
    wanted: Wanted = field(default_factory=Wanted)
    filename: str = "data.jsonl"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    base_model: str = ""
    create_dataset_if_missing: bool = False
    validate_only: bool = False
    request_id: str = ""
    digest: str = ""

    @property
    def parent(self) -> str:
        return DATASET.format(project=self.project, dataset=self.dataset)

    def check(self, limits: Limits) -> None:
        """Raises Invalid for what no file can make good.

        LABELS_INVALID, TEXT_TOO_LONG, SPLIT_INVALID, SIZE_INVALID, HASH_INVALID, COLUMNS_INVALID, FILE_TOO_LARGE.
        """
        check_pairs(self.labels, self.annotations)
        check_text("header.filename", self.filename, FILENAME_CHARACTERS_MAX)
        check_text("header.request_id", self.request_id, REQUEST_ID_CHARACTERS_MAX)
        checked_split(self.wanted.split)
        _check_columns(self.wanted)
        if self.wanted.sha256 and not _SHA256.fullmatch(self.wanted.sha256):
            raise _refused("HASH_INVALID", "sha256", "A SHA-256 is 64 lower-case hex digits.")
        claimed_bytes = self.wanted.size_bytes
        if claimed_bytes is not None and claimed_bytes < 0:
            raise _refused("SIZE_INVALID", "size_bytes", "A size is 0 or more bytes.")
        if claimed_bytes is not None and claimed_bytes > limits.file_bytes_max:
            raise refusals.file_too_large(claimed_bytes, limits.file_bytes_max, claimed=True)


def _check_columns(wanted: Wanted) -> None:
    known = set[str]()
    for name in wanted.formats:
        described = READERS[name].description
        known.update(described.required_fields, described.optional_fields)
    unknown = sorted(set(wanted.columns) - known)
    if unknown:
        message = f"Columns can be named for {', '.join(sorted(known))}, not for {', '.join(unknown)[:200]}."
        raise _refused("COLUMNS_INVALID", "columns", message)


def _refused(reason: str, field_name: str, message: str) -> Invalid:
    return Invalid(reason, message, fields=[FieldViolation(f"header.{field_name}", message, reason)])
