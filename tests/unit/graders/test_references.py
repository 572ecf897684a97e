"""References of a JSON schema: refused where they stand when a grader is made, and no row's crash ever."""

from __future__ import annotations

import random
from typing import Any

import pytest

from feinschliff.graders.grade import Fault, Sample
from feinschliff.graders.grader import parse, parse_all
from feinschliff.graders.references import first_dangling
from feinschliff.graders.spec import Spec
from feinschliff.kit.errors import Invalid

NOWHERE = "#/$defs/nope"
DANGLING: list[tuple[dict[str, Any], str]] = [
    ({"$ref": NOWHERE}, "/$ref"),
    ({"properties": {"a": {"$ref": NOWHERE}}}, "/properties/a/$ref"),
    ({"properties": {"a/b~c": {"$ref": NOWHERE}}}, "/properties/a~1b~0c/$ref"),
    ({"items": {"properties": {"a": {"not": {"$ref": NOWHERE}}}}}, "/items/properties/a/not/$ref"),
    ({"allOf": [True, {"anyOf": [{"$dynamicRef": "#nope"}]}]}, "/allOf/1/anyOf/0/$dynamicRef"),
    ({"patternProperties": {"^x": {"additionalProperties": {"$ref": NOWHERE}}}}, "/patternProperties/^x/additio"),
    ({"$defs": {"unused": {"contains": {"$ref": "#nope"}}}}, "/$defs/unused/contains/$ref"),
    ({"if": {}, "then": {"$ref": NOWHERE}}, "/then/$ref"),
    ({"prefixItems": [{"$ref": "#/prefixItems/1"}]}, "/prefixItems/0/$ref"),
    ({"prefixItems": [{"$ref": "#/prefixItems/first"}]}, "/prefixItems/0/$ref"),
    ({"properties": {"a": {"$ref": "#/title"}}, "title": "t"}, "/properties/a/$ref"),
    ({"properties": {"a": {"$ref": "#/maxItems/x"}}, "maxItems": 3}, "/properties/a/$ref"),
    ({"properties": {"a": {"$ref": "#/more/wrong"}}, "more": {"wrong": {"type": "text"}}}, "/properties/a/$ref"),
    ({"properties": {"a": {"$ref": "#/more"}}, "more": {"items": {"$ref": NOWHERE}}}, "/properties/a/$ref/items/$ref"),
    ({"properties": {"a": {"$id": "urn:a", "items": {"$ref": "#/$defs/b"}}}, "$defs": {"b": {}}}, "/properties/a/item"),
]
FOLLOWED: list[dict[str, Any]] = [
    {},
    {"properties": {"$ref": {"type": "string"}}},
    {"const": {"$ref": NOWHERE}, "enum": [{"$ref": NOWHERE}], "default": {"$ref": NOWHERE}},
    {"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"$ref": "#"}}},
    {"properties": {"a": {"$ref": "#b"}}, "$defs": {"b": {"$anchor": "b"}}},
    {"properties": {"a": {"$ref": "#/$defs/b~1c"}}, "$defs": {"b/c": True}},
    {"properties": {"a": {"$ref": "#/more"}}, "more": {"items": {"$ref": "#/more"}}},
    {"properties": {"a": {"$id": "urn:a", "$ref": "#/$defs/b", "$defs": {"b": {}}}}},
]


def spec(schema: object) -> Spec:
    return {"type": "json_schema", "name": "shape", "schema": schema}


@pytest.mark.parametrize(("schema", "pointer"), DANGLING)
def test_a_reference_to_nothing_is_refused_with_field_and_pointer(schema: dict[str, Any], pointer: str) -> None:
    multi = {"type": "multi", "name": "m", "graders": {"a": spec(schema)}, "calculate_output": "a"}
    with pytest.raises(Invalid) as refusal:
        parse_all([multi], path="eval.graders")
    assert refusal.value.reason == "GRADER_SCHEMA_INVALID"
    assert refusal.value.fields[0].field == "eval.graders[0].graders.a.schema"
    assert refusal.value.metadata["pointer"].startswith(pointer)
    assert pointer in refusal.value.message
    assert "$defs" in refusal.value.message


@pytest.mark.parametrize("schema", FOLLOWED)
def test_what_can_be_followed_and_what_is_data_are_let_through(schema: dict[str, Any]) -> None:
    assert first_dangling(schema) is None
    assert parse(spec(schema)).type == "json_schema"


ALWAYS_REFUSED = {"$ref", "allOf", "if"}
"""At the root they are reached by every value, so no such schema was ever stored."""


@pytest.mark.parametrize("schema", [schema for schema, _ in DANGLING if not ALWAYS_REFUSED & schema.keys()])
def test_a_stored_schema_with_such_a_reference_leaves_its_rows_ungraded_and_crashes_nothing(
    schema: dict[str, Any],
) -> None:
    grader: Any = parse(spec(schema), is_stored=True)
    answers = ['{"a": 1, "xy": {"z": 1}, "a/b~c": 1}', '{"a": [1]}', '[1, {"a": 1}]', "[[1]]", "1", '"a"']
    grades = [grader.grade({}, Sample(answer)) for answer in answers]
    assert {grade.fault for grade in grades if grade.value is None} <= {Fault.REFERENCE}
    reached = next((grade for grade in grades if grade.value is None), None)
    assert (reached is not None and "points at" in reached.why) or "unused" in str(schema)


def test_an_id_that_is_no_address_is_refused() -> None:
    with pytest.raises(Invalid) as refusal:
        parse(spec({"items": {"$id": "http://["}}))
    assert refusal.value.reason == "GRADER_SCHEMA_INVALID"


def test_no_schema_of_references_makes_a_grade_crash() -> None:
    """What is let through grades any answer; references are drawn blindly, into everything that a schema has."""
    random_ = random.Random(7)
    targets = ["#", "#/a", "#/items", "#/properties", "#/properties/a", "#/$defs/b/items", "#b", "#/allOf/0", "#/x/y"]

    def drawn(depth: int) -> Any:
        if depth == 0:
            return random_.choice([True, {}, {"$ref": random_.choice(targets)}])
        parts = {
            "items": drawn(depth - 1),
            "properties": {"a": drawn(depth - 1)},
            "$defs": {"b": {"$anchor": "b", "items": drawn(depth - 1)}} if depth == 3 else {},
            "allOf": [drawn(depth - 1)],
            "x": {"y": drawn(depth - 1)},
        }
        return dict(random_.sample(list(parts.items()), k=3))

    kept = 0
    for _ in range(80):
        schema = drawn(3)
        try:
            grader: Any = parse(spec(schema))
        except Invalid:
            continue
        kept += 1
        for answer in ('{"a": {"a": [1]}}', "[[{}]]", "1"):
            assert grader.grade({}, Sample(answer)).why
    assert kept > 8
