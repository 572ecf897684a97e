"""The `filter` and `order_by` of lists: comparisons joined by AND, and one field to sort by."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from feinschliff.kit.errors import FieldViolation, Invalid

_COMPARISON = re.compile(
    r"""\s*(?P<field>[a-z_]+(?:\.[A-Za-z0-9_./-]+)?)\s*(?P<op><=|>=|!=|=|<|>)\s*(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]+)\s*"""
)
_AND = re.compile(r"AND\s", re.ASCII)
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Comparison(NamedTuple):
    """`field op value`; a map's key follows its name after a dot, as in `labels.team`."""

    field: str
    op: str
    value: str


class Order(NamedTuple):
    field: str
    descending: bool


def parse_filter(text: str) -> list[Comparison]:
    """The comparisons of a filter such as `state = RUNNING AND labels.team = "a b"`.

    Raises:
        Invalid: FILTER_INVALID, with the position.
    """
    found: list[Comparison] = []
    if "\0" in text:
        raise _bad_filter(f"at character {text.index(chr(0)) + 1} stands a NUL, which no field holds")
    rest, at = text.strip(), 0
    while rest:
        match = _COMPARISON.match(rest)
        if match is None:
            raise _bad_filter(f"at character {at + 1}: {rest[:40]!r} is not `field = value`")
        value = match["value"]
        found.append(Comparison(match["field"], match["op"], _unquoted(value) if value.startswith('"') else value))
        rest, at = rest[match.end() :], at + match.end()
        if rest:
            joint = _AND.match(rest)
            if joint is None:
                raise _bad_filter(f"at character {at + 1}: {rest[:40]!r} should be AND and another comparison")
            rest, at = rest[joint.end() :], at + joint.end()
            if not rest.strip():
                raise _bad_filter("nothing follows the last AND")
    return found


def conditions(text: str, columns: Mapping[str, Any], readers: Mapping[str, Callable[[str], Any]]) -> list[Any]:
    """A filter as conditions on a table's columns.

    Args:
        columns: by the API's field name; a JSON column for `name.*` takes any key.
        readers: how a field's value is read where it is no string, such as a number, a state or a time.

    Raises:
        Invalid: FILTER_INVALID for an unknown field or a value that cannot be read.
    """
    result = []
    for comparison in parse_filter(text):
        name, _, key = comparison.field.partition(".")
        column = columns.get(comparison.field, columns.get(name) if key else None)
        if column is None:
            raise _bad_filter(f"{comparison.field!r} is not one of {', '.join(sorted(columns))}")
        keyed = bool(key) and comparison.field not in columns
        left = column[key].as_string() if keyed else column
        result.append(_OPERATORS[comparison.op](left, _read(comparison, readers.get(comparison.field))))
    return result


def parse_order(text: str, allowed: Sequence[str], default: Order) -> Order:
    """The one field to sort by, `field` or `field desc`.

    Raises:
        Invalid: ORDER_INVALID.
    """
    words = text.split()
    if not words:
        return default
    if len(words) > 2 or words[0] not in allowed or (len(words) == 2 and words[1] not in ("asc", "desc")):
        message = f"order_by {text[:100]!r} is not one of {', '.join(allowed)}, each with an optional `desc`."
        raise Invalid(
            "ORDER_INVALID", message, fields=[FieldViolation("order_by", message, "ORDER_INVALID")], order_by=text[:100]
        )
    return Order(words[0], words[1:] == ["desc"])


def time_value(text: str) -> datetime:
    """RFC 3339, with its zone."""
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError("a time needs its zone, such as 2026-01-31T12:00:00Z")
    return value


def _read(comparison: Comparison, reader: Callable[[str], Any] | None) -> Any:
    if reader is None:
        return comparison.value
    try:
        return reader(comparison.value)
    except (ValueError, KeyError) as error:
        raise _bad_filter(f"{comparison.field}: {comparison.value[:60]!r} cannot be read: {error}") from error


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _bad_filter(why: str) -> Invalid:
    message = f"The filter cannot be read: {why}."
    return Invalid("FILTER_INVALID", message, fields=[FieldViolation("filter", message, "FILTER_INVALID")], why=why)
