"""One thing to look for, in a text that may still grow: whatever pieces it comes in, the same is found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import re2

from feinschliff.detectors.width import longest_match

CONTEXT = 8
"""Characters before a window's `at` that a rule may look at."""
LONGEST_MAX = 512
"""A pattern whose matches may be longer is looked at in windows of so many characters."""
COMPILED_BYTES_MAX = 1 << 20
_EDGES = ("", "b b", "~\n~b", "0_ -")  # texts with every kind of edge, where a pattern may match nothing


class Hit(NamedTuple):
    """Characters [start, end) of the window's text, and by which rule."""

    start: int
    end: int
    rule: str


class Window(NamedTuple):
    """A part of a text.

    Args:
        text: `CONTEXT` characters before `at`, where there are so many, and all that is there behind it.
        at: from where to look; no hit of this rule begins before it.
        is_whole: the text ends here; else more may come.
        before: characters of the text before this part.
    """

    text: str
    at: int
    is_whole: bool
    before: int = 0


class Scan(NamedTuple):
    """What was found, and up to where that is final: every later hit begins at `safe` or behind it."""

    hits: list[Hit]
    safe: int


class Rule(Protocol):
    """What is found depends on the text alone, not on the windows it is seen through."""

    @property
    def name(self) -> str: ...

    def scan(self, window: Window) -> Scan: ...


Check = Callable[[str, int, int], int | None]
"""Text, start and end of a match -> where the hit ends, or None where it is none."""


class PatternError(ValueError):
    """A pattern that RE2 does not take, and why."""


def compiled(pattern: str, *, bytes_max: int = COMPILED_BYTES_MAX) -> Any:
    """RE2's automaton: its time grows with the text and never explodes, its memory is bounded.

    Raises:
        PatternError
    """
    options = re2.Options()
    options.max_mem = bytes_max
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0] if error.args else b""
        raise PatternError(told.decode() if isinstance(told, bytes) else str(told)) from None


@dataclass(frozen=True)
class BoundedRule:
    """Matches of a pattern that has a longest one.

    A match is final once the text goes on for `longest` characters and one more behind its start: then nothing that
    comes can change it. What follows says sooner that none can begin in what is held back.

    Args:
        group: which group of the pattern is the hit; 0 is all of it.
        alphabet: every match consists of these characters alone, so one that is none of them ends what is open.
        lead: every match begins with a match of it; `lead_longest` characters at most.
    """

    name: str
    pattern: Any
    longest: int
    group: int = 0
    alphabet: str = ""
    lead: Any = None
    lead_longest: int = 0
    check: Check | None = None

    def scan(self, window: Window) -> Scan:
        text, at, is_whole, _ = window
        hits: list[Hit] = []
        while match := self.pattern.search(text, at):
            start = match.start()
            if not is_whole and start >= self._final_before(text, at):
                break
            begin, end = match.span(self.group)
            real_end = self.check(text, begin, end) if self.check else end
            if real_end is None or real_end == begin:
                at = start + 1
                continue
            hits.append(Hit(begin, real_end, self.name))
            at = real_end
        return Scan(hits, len(text) if is_whole else max(at, self._final_before(text, at)))

    def _final_before(self, text: str, at: int) -> int:
        """Where the first match may begin that later text could still change."""
        final = max(at, len(text) - self.longest)
        if self.alphabet:
            final = max(final, len(text.rstrip(self.alphabet)))
        if self.lead is not None and final < len(text):
            lead = self.lead.search(text, final)
            open_from = max(final, len(text) - self.lead_longest)
            final = min(lead.start(), open_from) if lead else open_from
        return final


@dataclass(frozen=True)
class WindowRule:
    """Matches of a pattern that nothing bounds, looked for in windows of `LONGEST_MAX` characters that overlap by half.

    A match up to half a window long is found wherever it stands; of a longer one, what its window has.
    """

    name: str
    pattern: Any

    def scan(self, window: Window) -> Scan:
        text, at, is_whole, _ = window
        hits: list[Hit] = []
        while is_whole or at + LONGEST_MAX < len(text):
            end = min(len(text), at + LONGEST_MAX)
            is_last = end == len(text)
            new_from = end if is_last else at + LONGEST_MAX // 2
            match = self.pattern.search(text, at, end)
            if match and (is_last or match.start() < new_from):
                if match.end() > match.start():
                    hits.append(Hit(match.start(), match.end(), self.name))
                at = max(match.end(), match.start() + 1)
            elif is_last:
                return Scan(hits, len(text))
            else:
                at = new_from
        return Scan(hits, at)


def rule_of(name: str, pattern: str) -> Rule:
    """A rule for a pattern of a user's.

    Raises:
        PatternError: RE2 does not take it, or it matches the empty text and so everywhere.
    """
    automaton, longest = compiled(pattern), longest_match(pattern)
    if not longest or any(found.start() == found.end() for text in _EDGES for found in automaton.finditer(text)):
        raise PatternError("it matches the empty text")
    if longest <= LONGEST_MAX // 2:
        return BoundedRule(name, automaton, int(longest) + 1)
    return WindowRule(name, automaton)


def bounded(
    name: str,
    rest: str,
    *,
    lead: str = "",
    group: int = 0,
    alphabet: str = "",
    check: Check | None = None,
    bytes_max: int = COMPILED_BYTES_MAX,
) -> Rule:
    """A rule of our own: `lead` and then `rest`."""
    longest, lead_longest = longest_match(lead + rest), longest_match(lead)
    assert math.isfinite(longest), f"the rule {name} has no longest match"
    return BoundedRule(
        name,
        compiled(lead + rest, bytes_max=bytes_max),
        int(longest) + 1,
        group,
        alphabet,
        compiled(lead) if lead else None,
        int(lead_longest),
        check,
    )
