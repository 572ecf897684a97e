"""Definitions are refused at their field and character, come back whole, and cross the wire unchanged."""

from __future__ import annotations

import pytest

from feinschliff.graders import formula, wire
from feinschliff.graders.formula import FormulaError
from feinschliff.graders.grader import GRADERS, parse
from feinschliff.graders.json_path import PathError, parse_path
from feinschliff.graders.spec import ANSWER, Spec
from feinschliff.kit.errors import Invalid, Refusal
from feinschliff.v1 import evaluation_pb2 as pb
from tests.unit.graders.tables import REFERENCE, TEXTS
from tests.unit.graders.tables_asking import ASKING, ENDPOINT, LABEL, LIKELY, SCORE
from tests.unit.graders.tables_structure import BOMB, CALLS, STRUCTURES

WRONG_SCHEMA = ("GRADER_SCHEMA_INVALID", "schema")
EXACT = {"type": "string_check", "input": ANSWER, "reference": REFERENCE, "operation": "eq"}
TOOLS = {"type": "tool_calls", "reference": REFERENCE}
MULTI: Spec = {"type": "multi", "graders": {"a": EXACT, "b": SCORE}, "calculate_output": "a + b"}
SPECS: list[Spec] = [
    *[row.spec for row in [*TEXTS, *STRUCTURES, *ASKING]],
    *[{**TOOLS, **row.changes} for row in CALLS],
    MULTI,
    {**MULTI, "graders": {"a": {**MULTI, "name": "inner"}}, "calculate_output": "a"},
    {**LABEL, "sampling_params": {"temperature": 0.5, "top_p": 0.9, "seed": 1, "reasoning_effort": "low", "n": 5}},
    {**LABEL, "calibration": "projects/p/calibrations/c"},
]
UNIQUE = list({repr(spec): spec for spec in SPECS}.values())


@pytest.mark.parametrize("spec", UNIQUE, ids=lambda spec: spec["type"])
def test_a_definition_comes_back_whole(spec: Spec) -> None:
    grader = parse({"name": "g", **spec})
    assert parse(grader.spec()) == grader
    assert (grader.type, grader.name, grader.spec()["type"]) == (spec["type"], "g", spec["type"])


@pytest.mark.parametrize("spec", UNIQUE, ids=lambda spec: spec["type"])
def test_a_definition_crosses_the_wire_unchanged(spec: Spec) -> None:
    grader = parse({"name": "g", **spec})
    message = wire.to_message(grader.spec())
    assert parse(wire.from_message(message), nested=True) == grader
    assert wire.to_message(wire.from_message(message)) == message
    assert parse(wire.from_message(wire.to_message({"name": "g", **spec})), nested=True) == grader


def test_every_kind_of_the_api_is_on_the_shelf() -> None:
    assert set(GRADERS) == set(wire.KINDS)


def test_what_openai_writes_is_taken_as_it_is() -> None:
    theirs = {
        "type": "multi",
        "name": "quality",
        "graders": {
            "close": {**EXACT, "name": "close", "operation": "neq"},
            "style": {
                "type": "score_model",
                "name": "style",
                "model": "gpt-5",
                "range": [0, 5],
                "input": [
                    {"role": "developer", "type": "message", "content": "Judge."},
                    {"role": "user", "content": {"type": "input_text", "text": "{{ sample.output_text }}"}},
                    {"role": "assistant", "content": [{"type": "output_text", "text": "a"}, "b"]},
                ],
                "sampling_params": {"max_completions_tokens": 100, "seed": None},
            },
        },
        "calculate_output": "close * style",
    }
    message = wire.to_message(theirs)
    style = message.multi.graders["style"].score_model
    assert [turn.text for turn in style.input] == ["Judge.", "{{ sample.output_text }}", "ab"]
    assert (style.range_low, style.range_high, style.sampling.max_tokens) == (0, 5, 100)
    assert message.multi.graders["close"].string_check.operation == pb.StringCheckGrader.OPERATION_NE
    listed = {**theirs, "graders": list(theirs["graders"].values())}  # type: ignore[attr-defined]
    assert wire.to_message(listed) == message


def without(spec: Spec, *names: str) -> Spec:
    return {key: value for key, value in spec.items() if key not in names}


REFUSED: list[tuple[Spec, str, str]] = [
    ({"type": "python", "name": "p"}, "GRADER_FIELD_MISSING", "source"),
    ({"type": "python", "name": "p", "source": " "}, "GRADER_FIELD_MISSING", "source"),
    ({"type": "python", "name": "p", "source": 7}, "GRADER_FIELD_TYPE", "source"),
    ({"type": "python", "name": "p", "source": "x" * 262_145}, "GRADER_FIELD_TOO_LONG", "source"),
    ({"type": "python", "name": "p", "source": "ä" * 131_073}, "GRADER_FIELD_TOO_LONG", "source"),
    ({"type": "python", "name": "p", "source": "x", "timeout_seconds": 121}, "GRADER_FIELD_RANGE", "timeout_seconds"),
    ({"type": "python", "name": "p", "source": "x", "pass_threshold": 2}, "GRADER_FIELD_RANGE", "pass_threshold"),
    ({"type": "python", "name": "p", "source": "x", "packages": "numpy"}, "GRADER_FIELD_UNKNOWN", "packages"),
    ({**EXACT, "reference": "{{ item.x"}, "TEMPLATE_SYNTAX", "reference"),
    ({**SCORE, "model": " "}, "GRADER_FIELD_MISSING", "model"),
    (without(SCORE, "input"), "GRADER_FIELD_MISSING", "input"),
    ({**SCORE, "input": "judge"}, "GRADER_FIELD_TYPE", "input"),
    ({**SCORE, "input": []}, "GRADER_FIELD_RANGE", "input"),
    ({**SCORE, "input": [{"role": "judge", "content": "x"}]}, "GRADER_VALUE_UNKNOWN", "input[0].role"),
    ({**SCORE, "input": [{"role": "user", "content": "{{ row.x }}"}]}, "TEMPLATE_NAMESPACE", "input[0].content"),
    ({**SCORE, "input": [{"role": "user", "content": 7}]}, "GRADER_FIELD_TYPE", "input[0].content"),
    ({**SCORE, "input": [{"role": "user", "content": [["x"]]}]}, "GRADER_FIELD_TYPE", "input[0].content[0]"),
    ({**SCORE, "input": [{"role": "user", "text": "x"}]}, "GRADER_FIELD_UNKNOWN", "input[0].text"),
    (
        {**SCORE, "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
        "GRADER_CONTENT_UNSERVED",
        "input[0].content[0].type",
    ),
    ({**SCORE, "range": [1, 1]}, "GRADER_FIELD_RANGE", "range"),
    ({**SCORE, "range": [1]}, "GRADER_FIELD_TYPE", "range"),
    ({**SCORE, "range": [0, 10], "pass_threshold": 11}, "GRADER_FIELD_RANGE", "pass_threshold"),
    ({**SCORE, "sampling_params": {"temperature": 3}}, "GRADER_FIELD_RANGE", "sampling_params.temperature"),
    ({**SCORE, "sampling_params": {"n": 3}}, "GRADER_FIELD_RANGE", "sampling_params.n"),
    ({**SCORE, "sampling_params": {"n": 33, "temperature": 1}}, "GRADER_FIELD_RANGE", "sampling_params.n"),
    ({**SCORE, "sampling_params": {"n": 1.5}}, "GRADER_FIELD_TYPE", "sampling_params.n"),
    ({**SCORE, "sampling_params": {"top_k": 3}}, "GRADER_FIELD_UNKNOWN", "sampling_params.top_k"),
    (
        {**SCORE, "sampling_params": {"reasoning_effort": "max"}},
        "GRADER_VALUE_UNKNOWN",
        "sampling_params.reasoning_effort",
    ),
    ({**LABEL, "labels": ["good"]}, "GRADER_FIELD_RANGE", "labels"),
    ({**LABEL, "labels": ["good", "good"]}, "GRADER_FIELD_RANGE", "labels[1]"),
    ({**LABEL, "passing_labels": []}, "GRADER_FIELD_RANGE", "passing_labels"),
    ({**LABEL, "passing_labels": ["good", "great"]}, "GRADER_VALUE_UNKNOWN", "passing_labels[1]"),
    ({**MULTI, "graders": EXACT}, "GRADER_FIELD_TYPE", "graders"),
    ({**MULTI, "graders": {}}, "GRADER_FIELD_RANGE", "graders"),
    ({**MULTI, "graders": {"a-b": EXACT}}, "GRADER_NAME_INVALID", "graders"),
    ({**MULTI, "graders": {"min": EXACT}}, "GRADER_NAME_INVALID", "graders"),
    ({**MULTI, "graders": {"a": 1, "b": EXACT}}, "GRADER_FIELD_TYPE", "graders.a"),
    ({**MULTI, "graders": {"a": {**EXACT, "operation": "x"}}}, "GRADER_OPERATION_UNKNOWN", "graders.a.operation"),
    ({**MULTI, "calculate_output": "a + c"}, "GRADER_FORMULA_INVALID", "calculate_output"),
    ({"type": "regex", "pattern": "(?=x)"}, "GRADER_PATTERN_INVALID", "pattern"),
    ({"type": "regex", "pattern": "x" * 4097}, "GRADER_FIELD_TOO_LONG", "pattern"),
    ({"type": "regex", "pattern": "x", "full_match": "yes"}, "GRADER_FIELD_TYPE", "full_match"),
    ({"type": "json_schema", "schema": {"type": "text"}}, "GRADER_SCHEMA_INVALID", "schema"),
    ({"type": "json_schema", "schema": {"$ref": "#/$defs/x"}}, "GRADER_SCHEMA_INVALID", "schema"),
    ({"type": "json_schema", "schema": {"$ref": "#"}}, "GRADER_SCHEMA_INVALID", "schema"),
    ({"type": "json_schema", "schema": {"$ref": "http://127.0.0.1/s"}}, "GRADER_SCHEMA_INVALID", "schema"),
    ({"type": "json_schema", "schema": {"items": {"$ref": "file:///etc/x"}}}, "GRADER_SCHEMA_INVALID", "schema"),
    ({"type": "json_schema", "schema": {"pattern": "(?=x)"}}, "GRADER_SCHEMA_INVALID", "schema"),
    ({"type": "json_schema", "schema": {"patternProperties": {"(": {}}}}, "GRADER_SCHEMA_INVALID", "schema"),
    ({"type": "json_schema", "schema": {"items": {"unevaluatedProperties": {}}}}, "GRADER_SCHEMA_INVALID", "schema"),
    ({"type": "json_schema", "schema": {"properties": {"properties": {"unevaluatedItems": {}}}}}, *WRONG_SCHEMA),
    (
        {"type": "json_schema", "schema": {"items": {"$schema": "http://json-schema.org/draft-07/schema#"}}},
        *WRONG_SCHEMA,
    ),
    (
        {"type": "json_schema", "schema": {"$ref": "#/properties", "properties": {"unevaluatedItems": {}}}},
        *WRONG_SCHEMA,
    ),
    ({"type": "json_schema", "schema": BOMB}, "GRADER_SCHEMA_INVALID", "schema"),
    ({"type": "json_schema", "schema": "{}"}, "GRADER_FIELD_TYPE", "schema"),
    ({"type": "json_path", "path": "$.a["}, "GRADER_PATH_INVALID", "path"),
    ({"type": "length"}, "GRADER_FIELD_MISSING", "max"),
    ({"type": "length", "max": -1}, "GRADER_FIELD_RANGE", "max"),
    ({"type": "length", "max": 1.5}, "GRADER_FIELD_TYPE", "max"),
    ({"type": "length", "min": 3, "max": 2}, "GRADER_FIELD_RANGE", "max"),
    ({"type": "length", "max": 2, "unit": "tokens"}, "GRADER_VALUE_UNKNOWN", "unit"),
    ({"type": "text_check", "checks": []}, "GRADER_FIELD_RANGE", "checks"),
    ({"type": "text_check", "checks": ["taste"]}, "GRADER_VALUE_UNKNOWN", "checks[0]"),
    ({"type": "text_check", "checks": ["secrets"], "kinds": ["email"]}, "GRADER_VALUE_UNKNOWN", "kinds[0]"),
    ({"type": "choice", "reference": "A", "options": ["A"]}, "GRADER_FIELD_RANGE", "options"),
    ({**LIKELY, "options": [str(k) for k in range(101)]}, "GRADER_FIELD_RANGE", "options"),
    ({**LIKELY, "likelihood": {}}, "GRADER_FIELD_MISSING", "likelihood.prompt"),
    ({**LIKELY, "likelihood": {"prompt": "{{"}}, "TEMPLATE_SYNTAX", "likelihood.prompt"),
    (
        {**LIKELY, "likelihood": {"prompt": "x", "normalization": "z"}},
        "GRADER_VALUE_UNKNOWN",
        "likelihood.normalization",
    ),
    ({"type": "numeric", "reference": "1", "relative_tolerance": 2}, "GRADER_FIELD_RANGE", "relative_tolerance"),
    ({"type": "numeric", "reference": "1", "absolute_tolerance": -1}, "GRADER_FIELD_RANGE", "absolute_tolerance"),
    ({**TOOLS, "arguments": "some"}, "GRADER_VALUE_UNKNOWN", "arguments"),
    ({**ENDPOINT, "url": "ftp://x"}, "GRADER_URL_INVALID", "url"),
    ({**ENDPOINT, "url": "https://user:pw@x/"}, "GRADER_URL_INVALID", "url"),
    ({**ENDPOINT, "url": "https://x/\r\nhost: y"}, "GRADER_URL_INVALID", "url"),
    ({**ENDPOINT, "url": "https://x:99999/"}, "GRADER_URL_INVALID", "url"),
    ({**ENDPOINT, "headers": {"authorization": "k"}}, "GRADER_HEADERS_REFUSED", "headers"),
    ({**ENDPOINT, "timeout_seconds": 601}, "GRADER_FIELD_RANGE", "timeout_seconds"),
    ({**ENDPOINT, "rate_limit": 0}, "GRADER_FIELD_RANGE", "rate_limit"),
]


@pytest.mark.parametrize(
    ("spec", "reason", "field"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_wrong_definition_is_refused_at_its_field(spec: Spec, reason: str, field: str) -> None:
    with pytest.raises(Refusal) as refusal:
        parse({"name": "g", **spec})
    assert (refusal.value.reason, refusal.value.fields[0].field) == (reason, f"grader.{field}")
    assert refusal.value.message


WIRE_REFUSED: list[tuple[Spec, str, str]] = [
    ({}, "GRADER_FIELD_MISSING", "type"),
    ({"type": "telepathy"}, "GRADER_TYPE_UNKNOWN", "type"),
    ({**EXACT, "name": 7}, "GRADER_FIELD_TYPE", "name"),
    ({**EXACT, "input": 7}, "GRADER_FIELD_TYPE", "input"),
    ({**EXACT, "operation": "x"}, "GRADER_OPERATION_UNKNOWN", "operation"),
    ({**EXACT, "operation": 1}, "GRADER_FIELD_TYPE", "operation"),
    ({**EXACT, "inputs": "x"}, "GRADER_FIELD_UNKNOWN", "inputs"),
    ({**SCORE, "range": [0]}, "GRADER_FIELD_TYPE", "range"),
    ({**SCORE, "range_low": "0"}, "GRADER_FIELD_TYPE", "range_low"),
    ({**SCORE, "sampling": {}}, "GRADER_FIELD_UNKNOWN", "sampling"),
    ({**SCORE, "sampling_params": {"max_tokens": 1}}, "GRADER_FIELD_UNKNOWN", "sampling_params.max_tokens"),
    ({**SCORE, "sampling_params": {"seed": "1"}}, "GRADER_FIELD_TYPE", "sampling_params.seed"),
    ({**SCORE, "sampling_params": 1}, "GRADER_FIELD_TYPE", "sampling_params"),
    ({**SCORE, "pass_threshold": float("nan")}, "GRADER_FIELD_TYPE", "pass_threshold"),
    ({**LABEL, "labels": ["a", 1]}, "GRADER_FIELD_TYPE", "labels[1]"),
    ({**LABEL, "labels": "ab"}, "GRADER_FIELD_TYPE", "labels"),
    ({**MULTI, "graders": EXACT}, "GRADER_FIELD_TYPE", "graders"),
    ({**MULTI, "graders": [{**EXACT, "name": "a"}, {**EXACT, "name": "a"}]}, "GRADER_NAME_TAKEN", "graders"),
    ({**MULTI, "graders": {"a": {**EXACT, "x": 1}}}, "GRADER_FIELD_UNKNOWN", "graders.a.x"),
    ({"type": "json_schema", "schema": [1]}, "GRADER_FIELD_TYPE", "schema"),
    ({"type": "length", "max": True}, "GRADER_FIELD_TYPE", "max"),
    ({"type": "text_check", "checks": ["taste"]}, "GRADER_VALUE_UNKNOWN", "checks[0]"),
    ({**ENDPOINT, "headers": {}}, "GRADER_HEADERS_REFUSED", "headers"),
]


@pytest.mark.parametrize(("spec", "reason", "field"), WIRE_REFUSED)
def test_what_is_no_definition_does_not_reach_the_wire(spec: Spec, reason: str, field: str) -> None:
    with pytest.raises(Refusal) as refusal:
        wire.to_message({"name": "g", **spec})
    assert (refusal.value.reason, refusal.value.fields[0].field) == (reason, f"grader.{field}")


def test_refusals_of_a_nested_definition_name_the_apis_fields() -> None:
    def refused(spec: Spec) -> str:
        with pytest.raises(Refusal) as refusal:
            parse({"name": "g", **spec}, nested=True)
        return refusal.value.fields[0].field

    assert refused({**SCORE, "range": [1, 0]}) == "grader.score_model.range_low"
    assert refused({**SCORE, "sampling_params": {"n": 3}}) == "grader.score_model.sampling.n"
    assert refused({**SCORE, "input": [{"role": "user", "content": "{{"}]}) == "grader.score_model.input[0].text"
    inner = {**EXACT, "operation": "x"}
    assert refused({**MULTI, "graders": {"a": inner}}) == "grader.multi.graders[a].string_check.operation"


def nested(levels: int) -> Spec:
    inner: Spec = {"name": "a", **EXACT}
    for _ in range(levels):
        inner = {"type": "multi", "name": "a", "graders": {"a": inner}, "calculate_output": "a"}
    return inner


def test_formulas_lie_in_each_other_so_deep_and_no_deeper() -> None:
    assert parse(nested(4)).type == "multi"
    with pytest.raises(Invalid) as refusal:
        parse(nested(5))
    assert refusal.value.reason == "GRADER_NESTED_TOO_DEEP"
    with pytest.raises(Invalid) as refusal:
        wire.to_message(nested(100))
    assert refusal.value.reason == "GRADER_NESTED_TOO_DEEP"


@pytest.mark.parametrize(
    ("source", "position", "words"),
    [
        ("", 1, "found the end"),
        ("a +", 4, "found the end"),
        ("a + * b", 5, "found '*'"),
        ("a b", 3, "expected an operator"),
        ("(a", 3, r"expected '\)'"),
        ("a)", 2, "found '\\)'"),
        ("a + c", 5, "'c' is neither a grader \\(a, b\\) nor a function"),
        ("a.real", 2, "'.' has no place"),
        ("__import__(1)", 1, "'__import__' is neither"),
        ("a['b']", 2, "has no place"),
        ("a if b else a", 3, "expected an operator"),
        ("a ** b", 4, "found '\\*'"),
        ("max()", 5, "found '\\)'"),
        ("abs(a, b)", 1, "takes 1 arguments, not 2"),
        ("max", 4, "expected '\\('"),
        ("max(a,", 7, "found the end"),
        ("a; b", 2, "';' has no place"),
        ("1..2", 3, "expected an operator"),
        ("(" * 100 + "a" + ")" * 100, 65, "nested more than 64"),
        ("a" + "^a" * 100, 128, "nested more than 64"),
        ("a" + " " * 4096, 4097, "at most 4096"),
        ("a" + "+a" * 1500, 402, "more than 200 steps"),
        ("a" + "*a" * 1500, 402, "more than 200 steps"),
        ("a" + "-b" * 201, 402, "more than 200 steps"),
        ("a + 1e999", 5, "too large"),
    ],
)
def test_a_wrong_formula_is_refused_at_its_character(source: str, position: int, words: str) -> None:
    with pytest.raises(FormulaError, match=words) as error:
        formula.parse(source, ["a", "b"])
    assert error.value.position == position
    with pytest.raises(Invalid) as refusal:
        parse({"name": "g", **MULTI, "calculate_output": source})
    assert refusal.value.metadata["position"] == str(position)


def test_the_longest_formula_has_a_value() -> None:
    assert formula.parse("a" + "+a" * 200, ["a"]).compute({"a": 0.5}) == 100.5


def test_a_formula_that_fails_says_where() -> None:
    with pytest.raises(FormulaError, match="/ of 1, 0 is no finite number") as error:
        formula.parse("1 + b * (b / a)", ["a", "b"]).compute({"a": 0, "b": 1})
    assert error.value.position == 12


@pytest.mark.parametrize(
    ("source", "position"),
    [
        ("", 1),
        ("a", 1),
        ("$.", 3),
        ("$a", 2),
        ("$.a.", 5),
        ("$[", 3),
        ("$[]", 3),
        ("$[a]", 3),
        ("$['a]", 3),
        ("$['a'", 6),
        ("$[1 2]", 5),
        ("$[1,]", 5),
        ("$[::0]", 3),
        ("$[01]", 4),
        ("$[?@.a == 1]", 3),
        ("$...a", 4),
        ("$['\\x']", 3),
    ],
)
def test_a_wrong_path_is_refused_at_its_character(source: str, position: int) -> None:
    with pytest.raises(PathError) as error:
        parse_path(source)
    assert error.value.position == position
