"""Schemas of rows come from users: none may hang the service, call out, or break a run."""

from __future__ import annotations

import time

import pytest

from feinschliff.evaluation.item_schema import ItemSchema, check_schema
from feinschliff.kit.errors import Invalid


def test_a_row_is_told_what_it_violates_and_where() -> None:
    schema = {"properties": {"q": {"type": "string", "pattern": "^a+$"}}, "required": ["q"]}
    check_schema(schema, "eval.item_schema")
    assert ItemSchema(schema).fault({"q": "aaa"}) == ""
    assert ItemSchema(schema).fault({"q": 3}).startswith("item.q: 3 is not")
    assert "required" in ItemSchema(schema).fault({})


def test_a_pattern_that_backtracks_without_end_takes_no_time() -> None:
    schema = {"properties": {"q": {"pattern": "^(a+)+$"}}}
    check_schema(schema, "eval.item_schema")
    start = time.perf_counter()
    assert ItemSchema(schema).fault({"q": "a" * 40 + "!"}).startswith("item.q: ")
    assert time.perf_counter() - start < 2  # it would be years


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/nope"},
        {"properties": {"q": {"$ref": "#/nope"}}},
        {"properties": {"q": {"items": {"$dynamicRef": "#nope"}}}},
        {"properties": {"q": {"$ref": "http://127.0.0.1/schema"}}},
        {"properties": {"q": {"pattern": "(?=x)"}}},
        {"type": "text"},
    ],
)
def test_a_schema_that_could_not_be_followed_is_refused_when_it_is_made(schema: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        check_schema(schema, "eval.item_schema")
    assert (caught.value.reason, caught.value.fields[0].field) == ("ITEM_SCHEMA_INVALID", "eval.item_schema")


@pytest.mark.parametrize(
    "schema",
    [{"properties": {"q": {"$ref": "#/nope"}}}, {"properties": {"q": {"$ref": "#/properties/q"}}}],
    ids=["nowhere", "itself"],
)
def test_a_schema_that_was_stored_before_it_was_checked_so_well_is_a_fault_of_its_rows(
    schema: dict[str, object],
) -> None:
    assert ItemSchema(schema).fault({"q": 1})
