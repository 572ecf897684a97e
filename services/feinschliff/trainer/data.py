"""Rows of committed data set versions, verified, encoded in blocks, and held as compact arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from pydantic import ValidationError

from feinschliff.artifacts.commit import key_of, read_manifest
from feinschliff.artifacts.store import Store
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.optimisation import Optimisation
from feinschliff.formats.records import Record
from feinschliff.formats.runfile import DataPart
from feinschliff.kit.errors import FieldViolation, Invalid, NotFound, WrongState
from feinschliff.lm.chat import Encoded
from feinschliff.trainer.table import Table

BLOCK_ROWS = 512
LINES_NAMED_MAX = 20


class Encoder(Protocol):
    """What rows become; `lm.encoding.RowEncoder`."""

    @property
    def joins(self) -> bool: ...

    def encode(self, records: Sequence[Record]) -> list[Encoded]: ...

    def tokens(self, row: Encoded) -> int: ...

    def cut(self, row: Encoded, tokens_max: int) -> Encoded: ...

    def joined(self, rows: Iterator[Encoded], tokens_max: int) -> Iterator[Encoded]: ...


@dataclass
class LongRows:
    """What was done to rows beyond the limit."""

    truncated: int = 0
    dropped: int = 0


def load_part(
    table: Table,
    store: Store,
    part: DataPart,
    encoder: Encoder,
    settings: Optimisation,
    *,
    check: Callable[[], None] = lambda: None,
) -> LongRows:
    """Append the part's rows to `table` in the order of the file.

    Args:
        encoder: records to tokens, many at once.
        settings: `max_row_tokens` and `on_long_row` apply; rows that are joined are cut into sequences instead.
        check: called between blocks; may raise to end the work.

    Raises:
        NotFound: DATASET_VERSION_MISSING.
        WrongState: DATASET_VERSION_CHANGED, ARTIFACT_CORRUPT.
        Invalid: ROW_UNREADABLE, ROW_TOO_LONG, ROW_WITHOUT_ANSWER, or the encoder's reason; each names lines.
    """
    counts, too_long, unanswered = LongRows(), [], []
    if encoder.joins:
        rows = (row for _, row in _encoded(store, part, encoder, check))
        for row in encoder.joined(rows, settings.max_row_tokens):
            table.append(row)
        return counts
    for line, row in _encoded(store, part, encoder, check):
        if not _has_label(row):
            unanswered.append(line)
            continue
        if encoder.tokens(row) > settings.max_row_tokens:
            if settings.on_long_row == "error":
                too_long.append((line, encoder.tokens(row)))
                continue
            row = encoder.cut(row, settings.max_row_tokens)
            if settings.on_long_row == "drop" or not _has_label(row):
                counts.dropped += 1
                continue
            counts.truncated += 1
        table.append(row)
    _refuse_unanswered(part, unanswered)
    _refuse_long(part, too_long, settings.max_row_tokens)
    return counts


def _encoded(
    store: Store, part: DataPart, encoder: Encoder, check: Callable[[], None]
) -> Iterator[tuple[int, Encoded]]:
    """Line and tokens of each row."""
    records = read_records(store, part)
    while block := list(islice(records, BLOCK_ROWS)):
        check()
        for record, row in zip(block, _encode_block(block, encoder, part), strict=True):
            yield record.line, row


def read_records(store: Store, part: DataPart) -> Iterator[Record]:
    """The rows of a version's splits; their bytes are held against the manifest's hashes."""
    manifest = manifest_of(store, part)
    for split in part.splits:
        name = f"{split}.jsonl"
        if name in manifest.files:
            for line in _verified_lines(store, key_of(part.prefix, name), manifest.files[name].sha256):
                yield _record(line, part)


def manifest_of(store: Store, part: DataPart) -> Manifest:
    """What the version holds.

    Raises:
        NotFound: DATASET_VERSION_MISSING.
        WrongState: DATASET_VERSION_CHANGED.
    """
    manifest = read_manifest(store, part.prefix)
    if manifest is None:
        raise NotFound(
            "DATASET_VERSION_MISSING",
            f"{part.dataset_version} is not in the object store.",
            advice=["Upload the data set again and start a new job."],
            dataset_version=part.dataset_version,
        )
    if manifest.digest.removeprefix("sha256:") != part.sha256.removeprefix("sha256:"):
        raise WrongState(
            "DATASET_VERSION_CHANGED",
            f"{part.dataset_version} holds other content than when the job was made.",
            dataset_version=part.dataset_version,
            expected=part.sha256,
            found=manifest.digest,
        )
    return manifest


def _verified_lines(store: Store, key: str, sha256: str) -> Iterator[bytes]:
    digest, rest = hashlib.sha256(), b""
    for chunk in store.open(key):
        digest.update(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest
    if digest.hexdigest() != sha256:
        raise WrongState("ARTIFACT_CORRUPT", f"{key} is damaged: its hash is not the manifest's.", key=key)


def _record(line: bytes, part: DataPart) -> Record:
    try:
        return Record.from_json_line(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise Invalid(
            "ROW_UNREADABLE", f"{part.dataset_version} holds a row that is none: {first['msg']}.", row=line[:200]
        ) from error


def _encode_block(block: Sequence[Record], encoder: Encoder, part: DataPart) -> list[Encoded]:
    try:
        return encoder.encode(block)
    except Invalid:
        for record in block:
            _encode_one(record, encoder, part)
        raise


def _encode_one(record: Record, encoder: Encoder, part: DataPart) -> None:
    try:
        encoder.encode([record])
    except Invalid as refusal:
        raise Invalid(
            refusal.reason,
            f"Line {record.line} of {part.dataset_version}: {refusal.message}",
            fields=[_violation(record.line, refusal.message, refusal.reason)],
            advice=refusal.advice,
            line=record.line,
        ) from refusal


def _has_label(row: Encoded) -> bool:
    return any(row.is_answer[1:])


def _refuse_unanswered(part: DataPart, lines: Sequence[int]) -> None:
    if not lines:
        return
    raise Invalid(
        "ROW_WITHOUT_ANSWER",
        f"{len(lines)} rows of {part.dataset_version} have no token to learn from: {_named(lines)}.",
        fields=[_violation(line, "no trained answer", "ROW_WITHOUT_ANSWER") for line in lines[:LINES_NAMED_MAX]],
        advice=["Give each row an assistant turn with text and without weight 0, or remove the row."],
        rows=len(lines),
    )


def _refuse_long(part: DataPart, rows: Sequence[tuple[int, int]], tokens_max: int) -> None:
    if not rows:
        return
    longest = max(tokens for _, tokens in rows)
    raise Invalid(
        "ROW_TOO_LONG",
        f"{len(rows)} rows of {part.dataset_version} have more than {tokens_max} tokens (the longest {longest}): "
        f"{_named([line for line, _ in rows])}.",
        fields=[_violation(line, f"{tokens} tokens", "ROW_TOO_LONG") for line, tokens in rows[:LINES_NAMED_MAX]],
        advice=[f"Raise max_row_tokens to {longest}, or set on_long_row to truncate or drop."],
        rows=len(rows),
    )


def _violation(line: int, what: str, reason: str) -> FieldViolation:
    return FieldViolation(f"line {line}", what, reason)


def _named(lines: Sequence[int]) -> str:
    shown = ", ".join(str(line) for line in lines[:LINES_NAMED_MAX])
    return f"lines {shown}" + (f" and {len(lines) - LINES_NAMED_MAX} more" if len(lines) > LINES_NAMED_MAX else "")
