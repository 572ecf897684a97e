"""What makes a set of files real: its manifest, written last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import orjson
from pydantic import Field, JsonValue

from feinschliff.formats.base import Stored

MANIFEST_NAME = "manifest.json"


class FileEntry(Stored):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class Manifest(Stored):
    """The files under one prefix with their hashes, and facts about them.

    No manifest: the files never were. `digest` names the content: equal files give equal digests, whatever `meta` says.
    """

    kind: str = Field(description="What the files are: `dataset`, `checkpoint`, `result`.")
    files: dict[str, FileEntry]
    meta: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        return content_digest(self.files)

    def to_json(self) -> bytes:
        return orjson.dumps(self.model_dump(), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        return cls.model_validate_json(text)


def content_digest(files: Mapping[str, FileEntry]) -> str:
    """`sha256:` over the sorted (name, sha256) pairs; independent of order, time and place."""
    lines = "".join(f"{name}\0{entry.sha256}\n" for name, entry in sorted(files.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
