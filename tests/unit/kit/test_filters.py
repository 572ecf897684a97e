"""Filters and orders of lists: read exactly, refused with the place."""

import pytest

from feinschliff.kit.errors import Invalid
from feinschliff.kit.filters import Comparison, Order, parse_filter, parse_order


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("state = RUNNING", [Comparison("state", "=", "RUNNING")]),
        ('labels.team = "a \\"b\\" AND c"', [Comparison("labels.team", "=", 'a "b" AND c')]),
        ("step>=5 AND step<9", [Comparison("step", ">=", "5"), Comparison("step", "<", "9")]),
    ],
)
def test_comparisons_are_read(text: str, found: list[Comparison]) -> None:
    assert parse_filter(text) == found


@pytest.mark.parametrize("text", ["state", "state = ", "= 4", "a = b OR c = d", "a = b AND", "a = b AND AND", 'a = "b'])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_filter(text)
    assert refused.value.reason == "FILTER_INVALID"


def test_orders() -> None:
    default = Order("create_time", descending=True)
    assert parse_order("", ["create_time"], default) == default
    assert parse_order("create_time", ["create_time"], default) == Order("create_time", descending=False)
    with pytest.raises(Invalid, match="order_by"):
        parse_order("size desc", ["create_time"], default)
