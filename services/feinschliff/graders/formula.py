"""Formulas over named numbers: read by a parser of our own, computed by walking a tree; nothing is ever executed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

CHARACTERS_MAX = 4096
DEPTH_MAX = 64
"""Of parentheses, calls and exponents in each other."""
STEPS_MAX = 200
"""Of operations each of which needs the one before, as in a long sum."""
_TOKEN = re.compile(
    r"(?P<blank>\s+)|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<name>[^\W\d]\w*)|(?P<sign>[-+*/^(),])"
)
NAME = re.compile(r"[^\W\d]\w*")


class FormulaError(ValueError):
    """What is wrong with a formula, and at which of its characters, from 1."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


class _Function(NamedTuple):
    arguments_min: int
    arguments_max: int
    compute: Callable[..., float]


_MANY = 32
FUNCTIONS: Mapping[str, _Function] = {
    "min": _Function(1, _MANY, lambda *values: min(values)),
    "max": _Function(1, _MANY, lambda *values: max(values)),
    "abs": _Function(1, 1, abs),
    "floor": _Function(1, 1, math.floor),
    "ceil": _Function(1, 1, math.ceil),
    "exp": _Function(1, 1, math.exp),
    "sqrt": _Function(1, 1, math.sqrt),
    "log": _Function(1, 1, math.log),
}
"""`log` is the natural one."""
_OPERATORS: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": math.pow,
}


@dataclass(frozen=True)
class _Node:
    """`what` is a number, a name, an operator or a function; `position` its character, from 1."""

    what: str | float
    position: int
    inner: tuple[_Node, ...] = ()
    steps: int = 0


@dataclass(frozen=True)
class Formula:
    """A checked formula; `names` are the numbers that it needs."""

    source: str
    names: frozenset[str]
    _root: _Node

    def compute(self, values: Mapping[str, float]) -> float:
        """Its value.

        Raises:
            FormulaError: it divides by zero, leaves a function's domain, or gives no finite number.
        """
        return _compute(self._root, values)


def parse(source: str, names: Sequence[str]) -> Formula:
    """Numbers, `names`, `+ - * / ^`, parentheses and FUNCTIONS; `^` binds tightest and from the right, `-2^2` is -4.

    Raises:
        FormulaError: a syntax fault, an unknown name, too long or too deep.
    """
    if len(source) > CHARACTERS_MAX:
        raise FormulaError(CHARACTERS_MAX + 1, f"a formula has at most {CHARACTERS_MAX} characters")
    parser = _Parser(list(_tokens(source)), len(source), frozenset(names))
    root = parser.whole()
    return Formula(source, frozenset(parser.used), root)


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def _tokens(source: str) -> Iterator[_Token]:
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise FormulaError(at + 1, f"{source[at]!r} has no place in a formula")
        kind = match.lastgroup or ""
        if kind != "blank":
            yield _Token(kind, match.group(), at + 1)
        at = match.end()


class _Parser:
    """Recursive descent; `depth` bounds how deep it goes."""

    def __init__(self, tokens: Sequence[_Token], length: int, names: frozenset[str]) -> None:
        self._tokens = tokens
        self._end = _Token("end", "", length + 1)
        self._at = 0
        self._depth = 0
        self._names = names
        self.used: set[str] = set()

    def whole(self) -> _Node:
        node = self._sum()
        if self._next.kind != "end":
            raise self._unexpected("an operator or the end")
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else self._end

    def _take(self, *texts: str) -> _Token | None:
        token = self._next
        if token.kind != "sign" or token.text not in texts:
            return None
        self._at += 1
        return token

    def _sum(self) -> _Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise FormulaError(self._next.position, f"it is nested more than {DEPTH_MAX} levels deep")
        node = self._product()
        while token := self._take("+", "-"):
            node = _joined(token.text, token.position, node, self._product())
        self._depth -= 1
        return node

    def _product(self) -> _Node:
        node = self._signed()
        while token := self._take("*", "/"):
            node = _joined(token.text, token.position, node, self._signed())
        return node

    def _signed(self) -> _Node:
        """Signs stand before a power: `-2^2` is -(2^2); after `^` they belong to the exponent."""
        is_negative, first = False, self._next.position
        while token := self._take("+", "-"):
            is_negative ^= token.text == "-"
        node = self._power()
        return _joined("-", first, _Node(0.0, first), node) if is_negative else node

    def _power(self) -> _Node:
        base = self._atom()
        token = self._take("^")
        if token is None:
            return base
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise FormulaError(token.position, f"it is nested more than {DEPTH_MAX} levels deep")
        exponent = self._signed()
        self._depth -= 1
        return _joined("^", token.position, base, exponent)

    def _atom(self) -> _Node:
        token = self._next
        if token.kind == "number":
            self._at += 1
            value = float(token.text)
            if not math.isfinite(value):
                raise FormulaError(token.position, "the number is too large")
            return _Node(value, token.position)
        if token.kind == "name":
            self._at += 1
            return self._call(token) if token.text in FUNCTIONS else self._named(token)
        if self._take("("):
            node = self._sum()
            self._expect(")")
            return node
        raise self._unexpected("a number, a name or '('")

    def _named(self, token: _Token) -> _Node:
        if token.text not in self._names:
            known = ", ".join(sorted(self._names))
            message = f"{token.text!r} is neither a grader ({known}) nor a function ({', '.join(FUNCTIONS)})"
            raise FormulaError(token.position, message)
        self.used.add(token.text)
        return _Node(token.text, token.position)

    def _call(self, token: _Token) -> _Node:
        self._expect("(")
        arguments = [self._sum()]
        while self._take(","):
            arguments.append(self._sum())
        self._expect(")")
        least, most, _ = FUNCTIONS[token.text]
        if not least <= len(arguments) <= most:
            words = f"{least}" if least == most else f"{least} to {most}"
            raise FormulaError(token.position, f"{token.text} takes {words} arguments, not {len(arguments)}")
        return _joined(token.text, token.position, *arguments)

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._unexpected(f"{text!r}")

    def _unexpected(self, expected: str) -> FormulaError:
        found = f"found {self._next.text!r}" if self._next.kind != "end" else "found the end"
        return FormulaError(self._next.position, f"expected {expected}, {found}")


def _joined(what: str, position: int, *inner: _Node) -> _Node:
    steps = 1 + max(one.steps for one in inner)
    if steps > STEPS_MAX:
        raise FormulaError(position, f"it takes more than {STEPS_MAX} steps one after another")
    return _Node(what, position, inner, steps)


def _compute(node: _Node, values: Mapping[str, float]) -> float:
    if isinstance(node.what, float):
        return node.what
    if not node.inner:
        return values[node.what]
    inner = [_compute(one, values) for one in node.inner]
    compute = _OPERATORS.get(node.what) or FUNCTIONS[node.what].compute
    try:
        value = float(compute(*inner))
    except (ArithmeticError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        shown = ", ".join(f"{one:g}" for one in inner)
        raise FormulaError(node.position, f"{node.what} of {shown} is no finite number")
    return value
