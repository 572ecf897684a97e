"""Calls of tools out of what a model says, piece by piece, however the text is cut."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import orjson

from feinschliff.inference.dialects import Dialect

_BLANK = " \t\r\n"
_HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')


@dataclass(frozen=True)
class Text:
    """Text beside the calls."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call begins; its number in the turn, from 0."""

    number: int
    name: str


@dataclass(frozen=True)
class Arguments:
    """More of the arguments of a call."""

    number: int
    text: str


Said = Text | Call | Arguments


class CallReader:
    """Reads one answer; what joins all pieces does not depend on where they were cut.

    Arguments are given out while they grow where the model writes name and arguments in this order, else at once. What
    only looks like a call stays text. Blanks around calls are dropped.

    Args:
        names: of the tools; where calls stand without a mark, only these make one.
        single: what comes behind the first call is dropped.
    """

    def __init__(self, dialect: Dialect, names: Collection[str], *, single: bool = False) -> None:
        self._dialect = dialect
        self._names = names
        self._single = single
        self._between = _BLANK + ("[],;" if dialect.is_list or not dialect.opening else "")
        self._state = self._in_text if dialect.opening else self._before_call
        self._rest = ""
        self._skipped = ""  # since the last call; text again where no call follows
        self._calls = 0
        self._extent = Extent()
        self._is_begun = False

    @property
    def calls(self) -> int:
        """Calls that have begun."""
        return self._calls

    def push(self, piece: str) -> list[Said]:
        self._rest += piece
        return list(self._moved())

    def flush(self) -> list[Said]:
        """What was held back, once nothing more comes."""
        held, self._rest = self._skipped + self._rest, ""
        is_silent = self._is_begun or (self._calls and (self._single or not held.strip(self._between)))
        return [] if is_silent or not held else [Text(held)]

    def _moved(self) -> Iterator[Said]:
        """Until nothing changes any more."""
        while self._rest:
            state, size = self._state, len(self._rest)
            yield from state()
            if self._state == state and len(self._rest) == size:
                return

    def _in_text(self) -> Iterator[Said]:
        opening = self._dialect.opening
        if self._single and self._calls:
            self._rest = ""
            return
        start = self._rest.find(opening) if opening else -1
        if start >= 0:
            before = self._rest[:start].rstrip(_BLANK)
            if before:
                yield Text(before)
            blank = self._rest[len(before) : start] if before else self._rest[:start]
            self._skipped, self._rest = blank + opening, self._rest[start + len(opening) :]
            self._state = self._before_call
            return
        held = _overlap(self._rest, opening) if opening else 0
        text = self._rest[: len(self._rest) - held]
        shown = text.rstrip(_BLANK) if opening else text
        if shown:
            self._rest = self._rest[len(shown) :]
            yield Text(shown)

    def _before_call(self) -> Iterator[Said]:
        """Behind a mark, between two calls, or at the beginning of an answer whose calls have no mark."""
        behind = self._rest.lstrip(self._between)
        self._skipped += self._rest[: len(self._rest) - len(behind)]
        self._rest = behind
        if behind.startswith("{"):
            self._state, self._extent, self._is_begun = self._in_call, Extent(), False
            return
        for marker in self._dialect.markers:
            if behind.startswith(marker):
                self._skipped += marker
                self._rest = behind[len(marker) :]
                if marker == self._dialect.closing:
                    self._skipped, self._state = "", self._in_text
                return
        if behind and not any(marker.startswith(behind) for marker in self._dialect.markers):
            is_marked = any(marker in self._skipped for marker in self._dialect.markers)
            if self._skipped and (is_marked or not self._calls):
                yield Text(self._skipped)
            self._skipped, self._state = "", self._in_text

    def _in_call(self) -> Iterator[Said]:
        if self._single and self._calls and not self._is_begun:
            self._rest = ""
            return
        if not self._is_begun and (head := _HEAD.match(self._rest)) and self._is_tool(name := _name(head.group(1))):
            yield self._begin(name)
            self._rest, self._extent = self._rest[head.end() :], Extent()
        size = self._extent.find(self._rest)
        if self._is_begun:
            yield from self._arguments(size)
        elif size is not None:
            yield from self._whole(self._rest[:size])
            self._rest = self._rest[size:]
            self._state = self._before_call

    def _arguments(self, size: int | None) -> Iterator[Said]:
        text = self._rest[:size]
        self._rest = self._rest[len(text) :]
        self._extent.forget(len(text))
        if text:
            yield Arguments(self._calls - 1, text)
        if size is not None:
            self._is_begun, self._skipped, self._state = False, "", self._behind_arguments

    def _behind_arguments(self) -> Iterator[Said]:
        """The end of the object that holds name and arguments."""
        yield from ()
        end = self._rest.find("}")
        if end >= 0:
            self._rest, self._state = self._rest[end + 1 :], self._before_call

    def _whole(self, text: str) -> Iterator[Said]:
        """An object that did not begin as calls do; a call with its keys in another order, or text."""
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            found = {}
        name, arguments = found.get("name"), found.get("arguments", found.get("parameters"))
        if isinstance(name, str) and self._is_tool(name) and isinstance(arguments, dict | str | None):
            yield self._begin(name)
            written = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
            yield Arguments(self._calls - 1, written)
            self._is_begun, self._skipped = False, ""
        else:
            yield Text(self._skipped + text)
            self._skipped = ""

    def _begin(self, name: str) -> Call:
        self._is_begun, self._skipped = True, ""
        self._calls += 1
        return Call(self._calls - 1, name)

    def _is_tool(self, name: str) -> bool:
        return bool(name) and (bool(self._dialect.opening) or name in self._names)


class Extent:
    """Finds the end of a JSON object that grows; it begins with its first character."""

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def find(self, text: str) -> int | None:
        """Its length once it is whole; `text` is what was given last time, and more."""
        while self._at < len(text):
            character = text[self._at]
            self._at += 1
            if self._in_string:
                self._in_string = self._is_escaped or character != '"'
                self._is_escaped = character == "\\" and not self._is_escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return self._at
        return None

    def forget(self, characters: int) -> None:
        """The text begins so much later from now on."""
        self._at -= characters


def _name(quoted: str) -> str:
    try:
        return str(orjson.loads(quoted))
    except orjson.JSONDecodeError:
        return ""


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker`."""
    longest = min(len(text), len(marker) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(marker[:size])), 0)
