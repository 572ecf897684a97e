"""Drafts of what a row says next, looked up in what it has read and said: answers repeat their prompts and themselves.

Prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding): where the last tokens stood
before, the text is supposed to go on as it did behind the latest such place.
"""

from __future__ import annotations

from collections.abc import Sequence

_KEPT_TOKENS = 8192  # places further back are forgotten: 4 MiB at most

_SHARES = {8: 0.95, 4: 0.75, 2: 0.45}
"""Tokens that must recur, the longest first, and the share of drafts behind so many that hold; measured, see the README
of `tests/bench/inference`. Behind one token it is 0.2: not worth looking up."""

_BELIEVED_TOKENS = 2.0  # drafted ones of a row's own that count as much as what is known of others
_FADE = 0.98  # of what is known, with each step in which it is asked for


class Pace:
    """How often drafts held. What is known fades, so that where they failed it is tried again later.

    Args:
        share: that is expected before anything is known.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._held = self._drafted = 0.0

    @property
    def share(self) -> float:
        """Of drafted tokens that are likely to hold, each if those before it did; in (0, 1)."""
        return (self._held + self._share * _BELIEVED_TOKENS) / (self._drafted + _BELIEVED_TOKENS)

    def fade(self) -> None:
        self._held *= _FADE
        self._drafted *= _FADE

    def note(self, drafted: int, held: int) -> None:
        """Of one draft: the first token that fails says nothing of those behind it."""
        self._held += held
        self._drafted += min(drafted, held + 1)


class Lookup:
    """The text of one row, and where each short run of tokens stood last; what a token costs does not grow with it."""

    def __init__(self, tokens: Sequence[int], *, kept_tokens: int = _KEPT_TOKENS) -> None:
        self._kept_tokens = kept_tokens
        self._text = list(tokens[-kept_tokens:])
        self._behind: dict[tuple[int, ...], int] = {}  # a run of tokens: the place behind it
        for size in _SHARES:
            runs = zip(*(self._text[start:] for start in range(size)), strict=False)
            self._behind.update((run, place) for place, run in enumerate(runs, start=size) if place < len(self._text))
        self._paces = {size: Pace(share) for size, share in _SHARES.items()}
        self._source: int | None = None
        self._pace = self._drafting = next(iter(self._paces.values()))
        self._find()

    def add(self, token: int) -> None:
        """What the row says."""
        self._text.append(token)
        self._find()
        self._forget(len(self._text) - self._kept_tokens)

    def share(self) -> float:
        """How likely each token of a draft holds if those before it do; 0 where the last tokens are new.

        To be asked once a step: what failed is tried again after some.
        """
        if self._source is None:
            return 0.0
        self._pace.fade()
        return self._pace.share

    def propose(self, count: int) -> list[int]:
        """The next tokens if the text goes on as it did; none where its end is new. A draft may go on in itself."""
        if self._source is None:
            return []
        self._drafting = self._pace
        period = len(self._text) - self._source
        again = self._text[self._source : self._source + min(count, period)]
        return [again[at % period] for at in range(count)]

    def note(self, drafted: int, held: int) -> None:
        """What became of the last proposal; what was said is added apart."""
        self._drafting.note(drafted, held)

    def _find(self) -> None:
        """Looks the last tokens up before they are noted themselves."""
        self._source = None
        for size, pace in self._paces.items():
            run = tuple(self._text[-size:])
            if len(run) == size:
                if self._source is None:
                    self._source, self._pace = self._behind.get(run), pace
                self._behind[run] = len(self._text)

    def _forget(self, start: int) -> None:
        """Runs that begin just before `start` and never came again."""
        if start <= 0:
            return
        for size in _SHARES:
            run = tuple(self._text[start - 1 : start - 1 + size])
            if self._behind.get(run) == start - 1 + size:
                del self._behind[run]
