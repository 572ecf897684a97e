"""One text read by guards while it grows: what may be said of it already, and what they found."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from feinschliff.detectors.rule import CONTEXT, Window
from feinschliff.inference.guards.guard import Action, Guard
from feinschliff.inference.guards.rules import rules_of, stand_in

PIECE_CHARACTERS = 512
"""A whole text is read in pieces like a growing one: each look costs as much as the text that it sees."""


class Found(NamedTuple):
    """A hit, by its place in the whole text; the guard and its rule by number, so that hits have one order."""

    start: int
    guard: int
    rule_number: int
    end: int
    rule: str


class Reading:
    """The text as guards leave it. It and what they find are the same whatever pieces the text comes in.

    All guards read the text as it came, not what another one made of it. Hits count in the order of their places, and
    at one place in the guards' order; the first that blocks ends the text before its place, and nothing behind counts.
    """

    def __init__(self, guards: Sequence[Guard]) -> None:
        self._guards = guards
        self._rules = [(number, rule) for number, guard in enumerate(guards) for rule in rules_of(guard.of)]
        self._looked = [0] * len(self._rules)
        self._text = ""
        self._before = 0  # characters that came before `_text`
        self._said = 0  # characters of the whole text that were given out or replaced
        self._open: list[Found] = []
        self.found: dict[int, Counter[str]] = {}
        """By the guard's number, how often each of its rules counted."""
        self.blocked_by: Guard | None = None
        self.blocking_rule = ""

    @property
    def rules(self) -> int:
        return len(self._rules)

    def feed(self, piece: str, *, is_whole: bool = False) -> str:
        """What may be given out now that `piece` has come; with `is_whole` the text ends with it."""
        if self.blocked_by is not None:
            return ""
        self._text += piece
        for place, (guard, rule) in enumerate(self._rules):
            at = self._looked[place] - self._before
            scan = rule.scan(Window(self._text, at, is_whole, self._before))
            self._looked[place] = self._before + scan.safe
            for hit in scan.hits:
                found = Found(self._before + hit.start, guard, place, self._before + hit.end, hit.rule)
                heapq.heappush(self._open, found)
        decided = min(self._looked, default=self._before + len(self._text))
        given = self._count_up_to(decided) + self._give_up_to(decided)
        self._forget(decided)
        return given

    def _count_up_to(self, decided: int) -> str:
        given = ""
        while self._open and self._open[0].start < decided and self.blocked_by is None:
            hit = heapq.heappop(self._open)
            guard = self._guards[hit.guard]
            self.found.setdefault(hit.guard, Counter())[hit.rule] += 1
            if guard.action is Action.BLOCK:
                given += self._give_up_to(hit.start)
                self.blocked_by, self.blocking_rule = guard, hit.rule
            elif guard.action is Action.MASK:
                if hit.start >= self._said:
                    given += self._give_up_to(hit.start) + stand_in(guard.of, hit.rule)
                self._said = max(self._said, hit.end)
        return given

    def _give_up_to(self, place: int) -> str:
        if self.blocked_by is not None or place <= self._said:
            return ""
        given = self._text[self._said - self._before : place - self._before]
        self._said = place
        return given

    def _forget(self, decided: int) -> None:
        """Drops what no rule looks at any more."""
        drop = decided - CONTEXT - self._before
        if drop > 0:
            self._text, self._before = self._text[drop:], self._before + drop


def read(guards: Sequence[Guard], text: str) -> tuple[str, Reading]:
    """A whole text: what guards leave of it, and what they found."""
    reading = Reading(guards)
    pieces = [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]
    left = "".join([reading.feed(piece) for piece in pieces])
    return left + reading.feed("", is_whole=True), reading
