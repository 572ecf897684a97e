"""Counts tokens: every row of a usual file, a fair sample of the rest of a large one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from feinschliff.ingestion.readers.reader import Content

EXACT_ROWS = 20_000
SAMPLE_EVERY = 64
_BATCH_CHARACTERS = 65_536


class Encode(Protocol):
    """Token counts of texts, one each, without special tokens."""

    def __call__(self, texts: Sequence[str]) -> Sequence[int]: ...


class Tokens(NamedTuple):
    """Tokens of all message texts; what a chat template adds is not in it."""

    total: int
    estimated: bool


class TokenCounter:
    """Exact for the first 20000 rows; beyond them one row in 64 is counted and stands for its share of the bytes.

    Which rows are sampled follows from their content digests, so the same file gives the same number. Tokens per byte
    vary little between rows: over the 30000 rows of a sample the error of the mean stays well below one percent.
    """

    def __init__(self, encode: Encode, *, exact_rows: int = EXACT_ROWS, sample_every: int = SAMPLE_EVERY) -> None:
        self._encode = encode
        self._exact_rows = exact_rows
        self._sample_every = sample_every
        self._rows = 0
        self._exact = _Tally()
        self._sampled = _Tally()
        self._rest_bytes = 0

    def add(self, rows: Sequence[tuple[Content, bytes, int]]) -> None:
        """Rows in order: content, content digest, bytes of its normal form."""
        exact, sampled = [], []
        for content, digest, size_bytes in rows:
            self._rows += 1
            if self._rows <= self._exact_rows:
                exact.append((content, size_bytes))
                continue
            self._rest_bytes += size_bytes
            if int.from_bytes(digest[8:12]) % self._sample_every == 0:
                sampled.append((content, size_bytes))
        self._count(exact, self._exact)
        self._count(sampled, self._sampled)

    def result(self) -> Tokens:
        if self._rest_bytes == 0:
            return Tokens(self._exact.tokens, estimated=False)
        basis = self._sampled if self._sampled.size_bytes else self._exact
        rest = self._rest_bytes * basis.tokens / basis.size_bytes
        return Tokens(self._exact.tokens + round(rest), estimated=True)

    def _count(self, rows: Sequence[tuple[Content, int]], tally: _Tally) -> None:
        texts = [text for content, _ in rows for text in texts_of(content)]
        tally.tokens += sum(sum(self._encode(batch)) for batch in _batches(texts))
        tally.size_bytes += sum(size_bytes for _, size_bytes in rows)


class _Tally:
    def __init__(self) -> None:
        self.tokens = 0
        self.size_bytes = 0


def texts_of(content: Content) -> Iterator[str]:
    """Everything that a row says: contents, and the names and arguments of tool calls."""
    for message in _objects(content["messages"]):
        text = message.get("content")
        if isinstance(text, str):
            yield text
        for call in _objects(message.get("tool_calls") or []):
            function = call["function"]
            if isinstance(function, dict):
                yield f"{function['name']}{function['arguments']}"


def _objects(values: object) -> Iterator[Content]:
    if isinstance(values, list):
        yield from (value for value in values if isinstance(value, dict))


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and characters + len(text) > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch
