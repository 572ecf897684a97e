"""The order of properties survives objects that have none."""

from __future__ import annotations

from typing import Any

from feinschliff.formats.schemas import in_order, inner_schemas, with_order

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "z": {"anyOf": [{"properties": {"d": {}, "c": {}}}, {"type": "null"}]},
        "properties": {"type": "array", "items": {"properties": {"f": {}, "e": {}}}},
        "a": {"enum": [{"properties": {"h": 1, "g": 2}}]},
    },
    "$defs": {"n": {"properties": {"y": {}, "x": {}}}},
}


def shuffled(value: Any) -> Any:
    """As a map of the API gives it back."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in sorted(value)}
    return [shuffled(one) for one in value] if isinstance(value, list) else value


def orders(schema: Any) -> list[list[str]]:
    mine = [list(schema["properties"])] if isinstance(schema.get("properties"), dict) else []
    return mine + [order for inner in inner_schemas(schema) for order in orders(inner.schema)]


def test_the_order_that_was_written_comes_back() -> None:
    back = in_order(shuffled(with_order(SCHEMA)))
    assert sorted(orders(back)) == sorted(orders(SCHEMA))
    assert back == SCHEMA
    assert "propertyOrdering" not in str(back)


def test_without_a_list_required_properties_come_first_as_they_are_listed() -> None:
    schema = {"properties": {"a": {}, "b": {}, "c": {}, "d": {}}, "required": ["c", "none", "b"]}
    assert list(in_order(schema)["properties"]) == ["c", "b", "a", "d"]


def test_a_list_of_ones_own_stays() -> None:
    ordered = with_order({"properties": {"a": {}, "b": {}}, "propertyOrdering": ["b"]})
    assert ordered["propertyOrdering"] == ["b", "a"]


def test_options_for_the_engine_are_not_taken_from_callers() -> None:
    assert in_order({"x-guidance": {"lenient": True}, "items": {"x-guidance": {}}}) == {"items": {}}


def test_inner_schemas_have_their_paths() -> None:
    assert [inner.path for inner in inner_schemas(SCHEMA)] == [
        "properties.z",
        "properties.properties",
        "properties.a",
        "$defs.n",
    ]
