"""Which format a file has, told from its first rows; and what it is where it is no text at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson

from feinschliff.ingestion.readers import READERS
from feinschliff.ingestion.readers.reader import Reader, json_type, shown
from feinschliff.ingestion.readers.texts import TextReader

HEAD_BYTES = 4096
PLAINEST = TextReader.name
ROWS = 20

_MAGIC = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a zip archive or an Office document"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b"))
_CONTROLS_SHARE_MAX = 0.01


class Detected(NamedTuple):
    """The formats that fit, and what the first rows look like."""

    names: tuple[str, ...]
    seen: str


def binary_kind(head: bytes) -> str:
    """What a file is that is no UTF-8 text, told from its first bytes; empty where it may be text."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if b"\0" in head:
        return "binary data"
    controls = len(head) - len(head.translate(None, _CONTROLS))
    return "binary data" if controls > _CONTROLS_SHARE_MAX * len(head) else ""


def detect(lines: Sequence[bytes], columns: Mapping[str, str], among: Sequence[str] = tuple(READERS)) -> Detected:
    """The readers that recognise at least one of the lines.

    Lines of broken JSON are passed over; where every line begins as an object and none can be read, the file is taken
    for `chat`, whose reader then names what is broken line by line. Rows that are texts and nothing else beside rows of
    another format are taken for such rows with something missing, and named as well.
    """
    readers: dict[str, Reader] = {name: READERS[name](columns) for name in among}
    found = tuple(name for name, reader in readers.items() if any(reader.recognises(line) for line in lines))
    if len(found) > 1 and found[-1] == PLAINEST:
        found = found[:-1]
    if not found and "chat" in among and lines and all(_is_broken_object(line) for line in lines):
        return Detected(("chat",), "broken JSON")
    return Detected(found, describe(lines))


def describe(lines: Sequence[bytes]) -> str:
    """What the rows look like, without their content."""
    kinds = Counter(_kind(line) for line in lines)
    if not kinds:
        return "no row"
    return ", ".join(kind for kind, _ in kinds.most_common(3))


def _kind(line: bytes) -> str:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        start = line.lstrip()[:1]
        if start in (b"{", b"}", b"]") or line.strip() == b"[":
            return "pieces of JSON (one object over several lines, or broken)"
        return "plain text" if b"," not in line else "plain text with commas (CSV?)"
    if not isinstance(row, dict):
        return f"JSON, each line {json_type(row)}"
    keys = ", ".join(shown(key) for key in sorted(row)[:8])
    return f"objects with the keys {keys}" if keys else "empty objects"


def _is_broken_object(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        text = line.strip()
        return text.startswith(b"{") and len(text) > 1
    return False
