"""A file on its way in: hashed, cut into rows, checked, normalised, split and counted in one pass over its chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import orjson

from feinschliff.ingestion import refusals
from feinschliff.ingestion.duplicates import DuplicateCounter, Duplicates
from feinschliff.ingestion.findings import FINDINGS_MAX, BadRows, Finding, Severity
from feinschliff.ingestion.lines import Line, LineSplitter
from feinschliff.ingestion.readers import READERS
from feinschliff.ingestion.readers.detect import HEAD_BYTES, ROWS, binary_kind, detect
from feinschliff.ingestion.readers.reader import BadRow, Problem, Reader
from feinschliff.ingestion.split import Divider, Split
from feinschliff.ingestion.tokens import TokenCounter, Tokens

_BLOCK_ROWS = 512
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Wanted:
    """What the uploader said about the file; empty means not said."""

    formats: Sequence[str] = tuple(READERS)
    columns: Mapping[str, str] = field(default_factory=dict)
    split: Split = field(default_factory=Split)
    skip_bad_rows: bool = False
    size_bytes: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Limits:
    file_bytes_max: int = 8 * 1024**3
    line_bytes_max: int = 1024 * 1024
    rows_min: int = 10
    rows_few: int = 50


class Outputs(Protocol):
    """Where the bytes go, in order."""

    def source(self, data: bytes) -> None: ...

    def split(self, name: str, data: bytes) -> None: ...


@dataclass(frozen=True)
class Summary:
    """What a file turned out to be."""

    format: str
    source_bytes: int
    source_sha256: str
    rows_by_split: Mapping[str, int]
    bad_rows: int
    tokens: Tokens | None
    findings: tuple[Finding, ...]

    @property
    def rows(self) -> int:
        return sum(self.rows_by_split.values())


class _Row(NamedTuple):
    line: int
    text: bytes
    digest: bytes


class Intake:
    """Takes a file chunk by chunk; where the chunks' borders fall changes nothing but the speed.

    Memory is bounded whatever the size: one line, one block of rows, and the bounds of what is noticed.
    """

    def __init__(self, wanted: Wanted, limits: Limits, outputs: Outputs, tokens: TokenCounter | None = None) -> None:
        self._wanted = wanted
        self._limits = limits
        self._outputs = outputs
        self._tokens = tokens
        self._hash = hashlib.sha256()
        self._head = b""
        self._lines = LineSplitter(limits.line_bytes_max)
        self._waiting: list[Line] = []
        self._reader: Reader | None = None
        self._divider = Divider(wanted.split)
        self._duplicates = DuplicateCounter()
        self._block: list[_Row] = []
        self.bad = BadRows()
        self.format = ""
        self.source_bytes = 0
        self.rows_by_split = {name: 0 for name, share in wanted.split.fractions.items() if share > 0}

    def feed(self, chunk: bytes) -> None:
        """The next bytes.

        Raises:
            Invalid: FILE_TOO_LARGE, FILE_BINARY, FORMAT_UNKNOWN, FORMAT_AMBIGUOUS as soon as it is certain.
        """
        self.source_bytes += len(chunk)
        if self.source_bytes > self._limits.file_bytes_max:
            raise refusals.file_too_large(self.source_bytes, self._limits.file_bytes_max, claimed=False)
        self._hash.update(chunk)
        if not self._doomed:
            self._outputs.source(chunk)
        if len(self._head) < HEAD_BYTES:
            self._head += chunk[: HEAD_BYTES - len(self._head)]
        self._take(self._lines.feed(chunk))

    def finish(self) -> Summary:
        """The end of the file.

        Raises:
            Invalid: any reason of `ingestion.refusals`; what was written to the outputs is then to be thrown away.
        """
        self._check_claims()
        self._take(self._lines.finish())
        if self._reader is None:
            self._begin()
        self._flush()
        if not self.bad.rows and not self.rows:
            raise refusals.file_empty()
        if self._doomed:
            raise refusals.rows_invalid(self.bad, self.rows)
        if self.rows < self._limits.rows_min:
            raise refusals.too_few_rows(self.rows, self._limits.rows_min)
        if self.rows_by_split.get("train") == 0:
            raise refusals.train_split_empty(self.rows)
        return self.summary()

    @property
    def rows(self) -> int:
        """Good rows so far."""
        return sum(self.rows_by_split.values()) + len(self._block)

    def summary(self) -> Summary:
        """What is known by now; whole only after `finish`."""
        tokens = self._tokens.result() if self._tokens else None
        findings = self.bad.findings(Severity.WARNING if self._wanted.skip_bad_rows else Severity.ERROR)
        findings += self._noticed(tokens)
        return Summary(
            self.format,
            self.source_bytes,
            self._hash.hexdigest(),
            dict(self.rows_by_split),
            self.bad.rows,
            tokens,
            tuple(findings[:FINDINGS_MAX]),
        )

    @property
    def _doomed(self) -> bool:
        return self.bad.rows > 0 and not self._wanted.skip_bad_rows

    def _check_claims(self) -> None:
        claimed_bytes, claimed_hash = self._wanted.size_bytes, self._wanted.sha256
        if claimed_bytes is not None and claimed_bytes != self.source_bytes:
            raise refusals.size_mismatch(claimed_bytes, self.source_bytes)
        if claimed_hash and claimed_hash != self._hash.hexdigest():
            raise refusals.hash_mismatch(claimed_hash, self._hash.hexdigest())

    def _take(self, lines: Sequence[Line]) -> None:
        if self._reader is None:
            self._waiting += _filled(lines)
            if len(self._waiting) >= ROWS and len(self._head) >= HEAD_BYTES:
                self._begin()
            return
        self._read(lines)

    def _begin(self) -> None:
        kind = binary_kind(self._head)
        if kind:
            raise refusals.file_binary(kind)
        sample = [line.text for line in self._waiting[:ROWS] if line.text is not None]
        if not self._waiting:
            raise refusals.file_empty()
        detected = detect(sample, self._wanted.columns, self._wanted.formats)
        if len(detected.names) > 1:
            raise refusals.format_ambiguous(detected)
        if not detected.names and len(self._wanted.formats) != 1 and sample:
            raise refusals.format_unknown(detected)
        self.format = detected.names[0] if detected.names else self._wanted.formats[0]
        self._reader = READERS[self.format](self._wanted.columns)
        waiting, self._waiting = self._waiting, []
        self._read(waiting)

    def _read(self, lines: Sequence[Line]) -> None:
        assert self._reader is not None
        read = self._reader.read
        for number, text in _filled(lines):
            if text is None:
                limit = self._limits.line_bytes_max
                self.bad.add(number, [Problem("line_too_long", "", f"the line is longer than {limit} bytes")])
                continue
            try:
                content = read(text)
            except BadRow as bad:
                self.bad.add(number, bad.problems)
                continue
            normal = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
            digest = hashlib.sha256(normal).digest()
            if self._tokens and not self._doomed:
                self._tokens.add(content, digest, len(normal))
            self._block.append(_Row(number, normal, digest))
            if len(self._block) >= _BLOCK_ROWS:
                self._flush()

    def _flush(self) -> None:
        block, self._block = self._block, []
        if not block:
            return
        by_split: dict[str, list[bytes]] = {name: [] for name in self.rows_by_split}
        for row in block:
            by_split[self._divider.split_of(row.digest)].append(b'%s,"line":%d}\n' % (row.text[:-1], row.line))
        for name, lines in by_split.items():
            self.rows_by_split[name] += len(lines)
            if lines and not self._doomed:
                self._outputs.split(name, b"".join(lines))
        self._duplicates.add([row.digest for row in block], [row.line for row in block])

    def _noticed(self, tokens: Tokens | None) -> Iterator[Finding]:
        duplicates = self._duplicates.result()
        if duplicates.rows:
            yield _duplicates_found(duplicates)
        for name in (name for name, rows in self.rows_by_split.items() if not rows):
            yield Finding(Severity.WARNING, "SPLIT_EMPTY", f"no row fell into the {name} split", field=name)
        if self._limits.rows_min <= self.rows < self._limits.rows_few:
            message = f"{self.rows} rows are few; from {self._limits.rows_few} on there is no warning"
            yield Finding(Severity.WARNING, "FEW_ROWS", message, count=self.rows)
        if tokens is None:
            yield Finding(Severity.NOTE, "TOKENS_NOT_COUNTED", "no tokenizer was at hand")
        elif tokens.estimated:
            yield Finding(Severity.NOTE, "TOKENS_ESTIMATED", "the tokens of a large file are estimated from a sample")


def _filled(lines: Sequence[Line]) -> Iterator[Line]:
    for line in lines:
        text = line.text
        if line.number == 1 and text is not None:
            text = text.removeprefix(_BOM)
            line = Line(1, text)
        if text is None or (text and not text.isspace()):
            yield line


def _duplicates_found(duplicates: Duplicates) -> Finding:
    about = "" if duplicates.exact else "about "
    message = f"{about}{duplicates.rows} rows repeat an earlier one"
    return Finding(Severity.WARNING, "DUPLICATE_ROWS", message, duplicates.rows, duplicates.lines)
