"""The nouns of ingestion: datasets and their versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from feinschliff.formats.base import Stored
from feinschliff.formats.manifest import FileEntry
from feinschliff.ingestion.findings import Finding
from feinschliff.ingestion.split import Split

PROJECT = "projects/{project}"
DATASET = "projects/{project}/datasets/{dataset}"
VERSION = "projects/{project}/datasets/{dataset}/versions/{version}"


VersionKey = tuple[str, str, int, str]


class State(StrEnum):
    PROCESSING = "PROCESSING"
    READY = "READY"


@dataclass(frozen=True)
class Dataset:
    """A named series of versions; `revision` counts the writes to the dataset itself."""

    project: str
    id: str
    created: datetime
    updated: datetime
    display_name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    revision: int = 1
    latest: int = 0
    versions: int = 0

    @property
    def name(self) -> str:
        return DATASET.format(project=self.project, dataset=self.id)

    @property
    def etag(self) -> str:
        return str(self.revision)


class Facts(Stored):
    """What is known of a version once it is READY."""

    format: str
    source: FileEntry
    splits: dict[str, FileEntry] = Field(description="Splits with rows.")
    rows_by_split: dict[str, int]
    rows_skipped: int = 0
    tokens: int = 0
    tokens_estimated: bool = False
    tokenizer: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def rows(self) -> int:
        return sum(self.rows_by_split.values())


@dataclass(frozen=True)
class Version:
    """Rows that never change; while PROCESSING it belongs to `owner` until `lease_until`."""

    project: str
    dataset: str
    number: int
    state: State
    created: datetime
    lease_until: datetime
    owner: str
    split: Split = field(default_factory=Split)
    filename: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    header_digest: str = ""
    made_dataset: bool = False
    received_bytes: int = 0
    expected_bytes: int = 0
    ready: datetime | None = None
    sha256: str = ""
    facts: Facts | None = None
    revision: int = 1

    @property
    def key(self) -> VersionKey:
        """Project, dataset, number and owner: a number may be given out again, never to the same owner."""
        return self.project, self.dataset, self.number, self.owner

    @property
    def name(self) -> str:
        return VERSION.format(project=self.project, dataset=self.dataset, version=self.number)

    @property
    def etag(self) -> str:
        return str(self.revision)

    @property
    def prefix(self) -> str:
        """Where its objects are; the resource name is also the place in the store."""
        return self.name


def file_of(split: str) -> str:
    """The name of a split's file below the version's prefix."""
    return f"{split}.jsonl"


SOURCE = "source"
