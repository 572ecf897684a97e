"""Cuts a stream of chunks into lines, wherever the chunks' borders fall, in bounded memory."""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    """A line of the file, numbered from 1, without its line feed; `text` is None where it was too long to keep."""

    number: int
    text: bytes | None


class LineSplitter:
    """Holds at most one unfinished line of `line_bytes_max`; of a longer one only its number is kept."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._carry = bytearray()
        self._overflowed = False
        self.lines = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that end in this chunk."""
        first, *rest = chunk.split(b"\n")
        self._keep(first)
        if not rest:
            return []
        lines = [self._ended()]
        lines += [self._line(text) for text in rest[:-1]]
        self._keep(rest[-1])
        return lines

    def finish(self) -> list[Line]:
        """The last line, where the file does not end in a line feed."""
        return [self._ended()] if self._carry or self._overflowed else []

    def _keep(self, piece: bytes) -> None:
        if self._overflowed or len(self._carry) + len(piece) > self._line_bytes_max:
            self._overflowed = True
            self._carry.clear()
        else:
            self._carry += piece

    def _ended(self) -> Line:
        text, too_long = bytes(self._carry), self._overflowed
        self._carry.clear()
        self._overflowed = False
        self.lines += 1
        return Line(self.lines, None if too_long else text)

    def _line(self, text: bytes) -> Line:
        self.lines += 1
        return Line(self.lines, text if len(text) <= self._line_bytes_max else None)
