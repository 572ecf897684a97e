"""Filters and orders of lists."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.kit.errors import Invalid
from feinschliff.kit.filters import Comparison, Order, parse_filter, parse_order, time_value


def test_comparisons_are_joined_by_and() -> None:
    assert parse_filter('state = RUNNING AND labels.team = "a \\"b\\"" AND step>=3') == [
        Comparison("state", "=", "RUNNING"),
        Comparison("labels.team", "=", 'a "b"'),
        Comparison("step", ">=", "3"),
    ]


def test_an_empty_filter_keeps_all() -> None:
    assert parse_filter("   ") == []


@pytest.mark.parametrize(
    "text", ["state", "state =", "= x", "state = x AND", "state = x OR a = b", "state = x state = y", 'a = "open']
)
def test_what_cannot_be_read_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_filter(text)
    assert caught.value.reason == "FILTER_INVALID"
    assert caught.value.fields[0].field == "filter"


@given(st.text())
def test_no_text_does_worse_than_a_refusal(text: str) -> None:
    try:
        found = parse_filter(text)
    except Invalid:
        return
    assert bool(found) == bool(text.strip())


def test_orders() -> None:
    default = Order("created", descending=True)
    assert parse_order("", ["name"], default) == default
    assert parse_order("name", ["name"], default) == Order("name", descending=False)
    assert parse_order("name  desc", ["name"], default) == Order("name", descending=True)


@pytest.mark.parametrize("text", ["size", "name up", "name desc x", "name, size"])
def test_an_unknown_order_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_order(text, ["name"], Order("name", descending=False))
    assert caught.value.reason == "ORDER_INVALID"


def test_times_need_their_zone() -> None:
    assert time_value("2026-01-31T12:00:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    with pytest.raises(ValueError, match="zone"):
        time_value("2026-01-31T12:00:00")
