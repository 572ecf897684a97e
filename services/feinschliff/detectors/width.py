"""How many characters a match of a regular expression may have, told by reading it."""

from __future__ import annotations

import math
import re

_REPEAT = re.compile(r"\{(\d+)(,(\d*))?\}")
_GROUP = re.compile(r"\(\?(?:P?<\w+>|[a-zA-Z-]*:)")
_FLAGS = re.compile(r"\(\?[a-zA-Z-]*\)")
_CLASS_ITEM = re.compile(r"\[:\^?\w+:\]|\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.|.", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:[pP]\{[^}]*\}|[pP].|x\{[^}]*\}|x[0-9A-Fa-f]{2}|[0-7]{1,3}|.)", re.DOTALL)
_EMPTY = frozenset("bBAzZ")


def longest_match(pattern: str) -> float:
    """Characters of the longest text that a pattern can match; infinite where nothing bounds it.

    Args:
        pattern: one that RE2 has taken.
    """
    width, _ = _alternatives(pattern, 0)
    return width


def _alternatives(pattern: str, at: int) -> tuple[float, int]:
    """The widest alternative from `at` up to the group's end, and where that is."""
    widest = total = 0.0
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            widest, total, at = max(widest, total), 0.0, at + 1
            continue
        width, at = _atom(pattern, at)
        times, at = _times(pattern, at)
        total += width * times if width else 0.0
    return max(widest, total), at


def _atom(pattern: str, at: int) -> tuple[float, int]:
    match pattern[at]:
        case "(":
            if flags := _FLAGS.match(pattern, at):
                return 0.0, flags.end()
            group = _GROUP.match(pattern, at)
            width, end = _alternatives(pattern, group.end() if group else at + 1)
            return width, end + 1
        case "[":
            return 1.0, _class_end(pattern, at)
        case "^" | "$":
            return 0.0, at + 1
        case "\\":
            return _escape(pattern, at)
    return 1.0, at + 1


def _escape(pattern: str, at: int) -> tuple[float, int]:
    letter = pattern[at + 1]
    if letter == "Q":
        end = pattern.find("\\E", at)
        end = len(pattern) if end < 0 else end
        return float(end - at - 2), min(len(pattern), end + 2)
    if letter in _EMPTY or letter == "E":
        return 0.0, at + 2
    if letter == "C":
        return math.inf, at + 2  # a byte, not a character
    found = _ESCAPE.match(pattern, at)
    return 1.0, found.end() if found else at + 2


def _class_end(pattern: str, at: int) -> int:
    at += 2 if pattern[at + 1] == "^" else 1
    is_first = True
    while is_first or pattern[at] != "]":
        item = _CLASS_ITEM.match(pattern, at)
        assert item is not None
        at, is_first = item.end(), False
    return at + 1


def _times(pattern: str, at: int) -> tuple[float, int]:
    """How often the atom before `at` may stand, and where its repetition ends."""
    times = 1.0
    while at < len(pattern):
        repeat = _REPEAT.match(pattern, at)
        if pattern[at] in "*+":
            times, at = math.inf, at + 1
        elif pattern[at] == "?":
            at += 1
        elif repeat:
            least, comma, most = repeat.groups()
            bound = float(least) if comma is None else float(most) if most else math.inf
            times, at = times * bound if bound else 0.0, repeat.end()
        else:
            break
    return times, at
