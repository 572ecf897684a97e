"""JSON schemas of every kind that answers are asked for."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def thing(properties: Schema, *, required: list[str] | None = None, **more: Any) -> Schema:
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False, **more}


DIGIT: Schema = {"type": "integer", "minimum": 0, "maximum": 9}
WORD: Schema = {"type": "string", "maxLength": 5}
LETTER: Schema = {"enum": ["x", "y", "z"]}

SCALARS: list[Schema] = [
    {"type": "boolean"},
    {"type": "null"},
    DIGIT,
    {"type": "integer", "minimum": -5, "maximum": 120},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3},
    {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 50},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -1, "maximum": 1},
    WORD,
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[a-z]{1,4}$"},
    {"type": "string", "pattern": "^[0-9]{3}-[0-9]{2}$"},
    {"type": "string", "pattern": "^(GET|PUT) /[a-z]{0,5}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "time"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    LETTER,
    {"enum": [1, "two", None, True, [3], {"four": 4}]},
    {"enum": ['a"b', "back\\\\slash", "line\\nbreak", "\u00fc", "\U0001f600"]},
    {"const": "only"},
    {"const": 42},
    {"const": {"a": [1, 2, {"b": None}]}},
    {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    {"type": ["string", "boolean"], "maxLength": 3},
]
LISTS: list[Schema] = [
    {"type": "array", "items": DIGIT, "maxItems": 4},
    {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 3},
    {"type": "array", "items": LETTER, "minItems": 1, "maxItems": 1},
    {"type": "array", "items": {"type": "array", "items": DIGIT, "maxItems": 2}, "maxItems": 2},
    {"type": "array", "prefixItems": [LETTER, DIGIT], "items": False, "minItems": 2},
    {"type": "array", "prefixItems": [LETTER], "items": DIGIT, "minItems": 1, "maxItems": 3},
    {"type": "array", "items": {"anyOf": [LETTER, DIGIT, {"type": "null"}]}, "maxItems": 4},
    {"type": "array", "items": thing({"a": DIGIT}), "maxItems": 3},
    {"type": "array", "maxItems": 0},
]
OBJECTS: list[Schema] = [
    thing({}),
    thing({"a": DIGIT}),
    thing({"a": DIGIT, "b": LETTER, "c": {"type": "boolean"}}),
    thing({"a": DIGIT, "b": LETTER}, required=[]),
    thing({"a": DIGIT, "b": LETTER, "c": WORD}, required=["b"]),
    thing({"z": DIGIT, "a": LETTER}, required=["z", "a"]),
    thing({"a b": DIGIT, "c-d": LETTER, 'q"t': DIGIT, "\u00fc": DIGIT}),
    thing({"deep": thing({"deeper": thing({"deepest": DIGIT})})}),
    thing({"list": {"type": "array", "items": LETTER, "maxItems": 3}, "n": DIGIT}),
    thing({"name": WORD, "tags": {"type": "array", "items": WORD, "maxItems": 2}}),
    thing({"kind": {"const": "a"}, "value": DIGIT}),
    thing({"maybe": {"anyOf": [DIGIT, {"type": "null"}]}}),
    thing({"a": DIGIT}, title="T", description="D", examples=[{"a": 1}], default={"a": 0}),
    {"type": "object", "patternProperties": {"^k[0-9]$": DIGIT}, "additionalProperties": False},
]
CHOICES: list[Schema] = [
    {"anyOf": [thing({"a": DIGIT}), thing({"b": LETTER})]},
    {"oneOf": [{"type": "string", "maxLength": 2}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    {"oneOf": [thing({"t": {"const": 1}, "a": DIGIT}), thing({"t": {"const": 2}, "b": LETTER})]},
    {"anyOf": [{"type": "null"}, {"type": "array", "items": DIGIT, "maxItems": 2}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 7}]},
    {"allOf": [{"$ref": "#/$defs/base"}], "$defs": {"base": thing({"a": DIGIT})}},
    thing({"x": {"$ref": "#/$defs/digit"}, "y": {"$ref": "#/$defs/digit"}}, **{"$defs": {"digit": DIGIT}}),
    {"$ref": "#/definitions/letter", "definitions": {"letter": LETTER}},
    {"$ref": "#/$defs/node", "$defs": {"node": thing({"v": DIGIT, "n": {"$ref": "#/$defs/end"}}), "end": DIGIT}},
    {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": thing(
                {"v": DIGIT, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}},
            )
        },
    },
    thing(
        {"step": WORD, "result": {"anyOf": [DIGIT, {"$ref": "#/$defs/none"}]}}, **{"$defs": {"none": {"type": "null"}}}
    ),
    {"$schema": "https://json-schema.org/draft/2020-12/schema", **thing({"a": DIGIT})},
]
OPEN: list[Schema] = [
    {"type": "object"},
    {},
    thing({"anything": {}}),
    thing({"text": {"type": "string"}}),
    {"type": "array"},
    {"type": "object", "additionalProperties": DIGIT, "maxProperties": 2},
    {"type": "object", "properties": {"a": DIGIT}, "required": ["a"], "additionalProperties": LETTER},
    {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": DIGIT},
]
"""Of these an answer may be of any length."""

CLOSED = [*SCALARS, *LISTS, *OBJECTS, *CHOICES]
