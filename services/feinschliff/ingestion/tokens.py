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
        self._exact_rows = exact_rows
        self._sample_every = sample_every
        self._rows = 0
        self._exact = _Tally(encode)
        self._sampled = _Tally(encode)
        self._rest_bytes = 0

    def add(self, content: Content, digest: bytes, size_bytes: int) -> None:
        """The next row: its content, content digest and the bytes of its normal form."""
        self._rows += 1
        if self._rows <= self._exact_rows:
            self._exact.add(content, size_bytes)
            return
        self._rest_bytes += size_bytes
        if int.from_bytes(digest[8:12]) % self._sample_every == 0:
            self._sampled.add(content, size_bytes)

    def result(self) -> Tokens:
        exact, sampled = self._exact.tokens(), self._sampled.tokens()
        if self._rest_bytes == 0:
            return Tokens(exact, estimated=False)
        per_byte = sampled / self._sampled.size_bytes if sampled else exact / self._exact.size_bytes
        return Tokens(exact + round(self._rest_bytes * per_byte), estimated=True)


class _Tally:
    """Collects texts to encode many at once, about 64 KiB of them."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._waiting: list[str] = []
        self._waiting_characters = 0
        self._tokens = 0
        self.size_bytes = 0

    def add(self, content: Content, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        for text in texts_of(content):
            self._waiting.append(text)
            self._waiting_characters += len(text)
        if self._waiting_characters >= _BATCH_CHARACTERS:
            self._flush()

    def tokens(self) -> int:
        self._flush()
        return self._tokens

    def _flush(self) -> None:
        if self._waiting:
            self._tokens += sum(self._encode(self._waiting))
            self._waiting, self._waiting_characters = [], 0


def texts_of(content: Content) -> Iterator[str]:
    """Everything that a row says: its text, or contents and the names and arguments of tool calls."""
    if isinstance(said := content.get("text"), str):
        yield said
        return
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
