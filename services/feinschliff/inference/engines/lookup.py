"""Drafts of what a row says next, looked up in what it has read and said: answers repeat their prompts and themselves.

Prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding): where the last tokens stood
before, the text is supposed to go on as it did behind the latest such place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SIZES = (4, 3, 2)  # tokens that must recur: the longest that do say where to look
_KEPT_TOKENS = 8192  # places further back are forgotten: 4 MiB at most

_HELD_FIRST = 1.0  # of ...
_DRAFTED_FIRST = 2.0  # tokens, before anything is known of a row
_FADE = 0.98  # of what is known, with each step


class Lookup:
    """The text of one row, and where each short run of tokens stood last; what a token costs does not grow with it."""

    def __init__(self, tokens: Sequence[int], *, kept_tokens: int = _KEPT_TOKENS) -> None:
        self._kept_tokens = kept_tokens
        self._text = list(tokens[-kept_tokens:])
        self._behind: dict[tuple[int, ...], int] = {}  # a run of tokens: the place behind it
        for size in _SIZES:
            runs = zip(*(self._text[start:] for start in range(size)), strict=False)
            self._behind.update((run, place) for place, run in enumerate(runs, start=size) if place < len(self._text))
        self._source: int | None = None
        self._find()

    def add(self, token: int) -> None:
        """What the row says."""
        self._text.append(token)
        self._find()
        self._forget(len(self._text) - self._kept_tokens)

    @property
    def recurs(self) -> bool:
        """Whether the last tokens stood somewhere before."""
        return self._source is not None

    def propose(self, count: int) -> list[int]:
        """The next tokens if the text goes on as it did; none where its end is new. A draft may go on in itself."""
        if self._source is None:
            return []
        period = len(self._text) - self._source
        again = self._text[self._source : self._source + min(count, period)]
        return [again[at % period] for at in range(count)]

    def _find(self) -> None:
        """Looks the last tokens up before they are noted themselves."""
        self._source = None
        for size in _SIZES:
            run = tuple(self._text[-size:])
            if len(run) == size:
                if self._source is None:
                    self._source = self._behind.get(run)
                self._behind[run] = len(self._text)

    def _forget(self, start: int) -> None:
        """Runs that begin just before `start` and never came again."""
        if start <= 0:
            return
        for size in _SIZES:
            run = tuple(self._text[start - 1 : start - 1 + size])
            if self._behind.get(run) == start - 1 + size:
                del self._behind[run]


@dataclass
class Pace:
    """How often drafts of one row held. What is known fades, so that a row whose drafts failed tries again later."""

    _held: float = 0.0
    _drafted: float = 0.0

    @property
    def share(self) -> float:
        """Of drafted tokens that are likely to hold, each if those before it did; in (0, 1)."""
        return (self._held + _HELD_FIRST) / (self._drafted + _DRAFTED_FIRST)

    def fade(self) -> None:
        self._held *= _FADE
        self._drafted *= _FADE

    def note(self, drafted: int, held: int) -> None:
        """Of one draft: the first token that fails says nothing of those behind it."""
        self._held += held
        self._drafted += min(drafted, held + 1)
