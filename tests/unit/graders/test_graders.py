"""Each grader gives the documented grade, or None with the reason; definitions are refused precisely."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz

from feinschliff.graders.grade import Fault, Grade, Sample
from feinschliff.graders.grader import GRADERS_MAX, parse, parse_all
from feinschliff.graders.protocol import Grader, is_pure
from feinschliff.graders.spec import Spec
from feinschliff.kit.errors import Invalid, Refusal, Unserved


def string_check(operation: str, reference: str = "{{item.completion}}") -> Grader:
    answer = "{{sample.output_text}}"
    return parse({"type": "string_check", "name": "g", "input": answer, "reference": reference, "operation": operation})


def similarity(**changes: object) -> Spec:
    return {
        "type": "text_similarity",
        "name": "near",
        "input": "{{sample.output_text}}",
        "reference": "{{item.completion}}",
        "evaluation_metric": "fuzzy_match",
    } | changes


def grade(grader: Grader, answer: str, expected: str) -> Grade:
    assert is_pure(grader)
    return grader.grade({"completion": expected}, Sample(answer))


@pytest.mark.parametrize(
    ("operation", "answer", "expected", "value"),
    [
        ("eq", "refund", "refund", 1.0),
        ("eq", "Refund", "refund", 0.0),
        ("eq", "refund ", "refund", 0.0),
        ("eq", "refund\n", "refund", 0.0),
        ("eq", "", "", 1.0),
        ("eq", "", "refund", 0.0),
        ("eq", "\u00e4", "a\u0308", 0.0),
        ("ne", "refund", "refund", 0.0),
        ("ne", "Refund", "refund", 1.0),
        ("ne", "", "", 0.0),
        ("neq", "a", "b", 1.0),
        ("like", "the intent is refund.", "refund", 1.0),
        ("like", "the intent is Refund.", "refund", 0.0),
        ("like", "refund", "the intent is refund", 0.0),
        ("like", "", "refund", 0.0),
        ("like", "100%", "%", 1.0),
        ("like", "refund", "r%d", 0.0),
        ("like", "anything", "", None),
        ("ilike", "The Intent Is REFUND.", "refund", 1.0),
        ("ilike", "STRASSE", "straße", 1.0),
        ("ilike", "billing", "refund", 0.0),
        ("ilike", "anything", "", None),
        ("contains", "the intent is refund.", "refund", 1.0),
        ("contains", "the intent is REFUND.", "refund", 0.0),
        ("contains", "", "", None),
    ],
)
def test_string_check_grades_as_documented(operation: str, answer: str, expected: str, value: float | None) -> None:
    result = grade(string_check(operation), answer, expected)
    assert result.value == value
    assert result.why


def test_ne_is_echoed_where_its_alias_was_written() -> None:
    assert string_check("neq").spec()["operation"] == "ne"


@given(st.text(), st.text())
def test_eq_and_ne_are_opposite_and_like_follows_from_eq(answer: str, expected: str) -> None:
    eq, ne = (grade(string_check(operation), answer, expected).value for operation in ("eq", "ne"))
    assert eq is not None
    assert ne == 1 - eq
    if eq and expected:
        assert grade(string_check("like"), answer, expected).value == 1.0
    if grade(string_check("like"), answer, expected).value == 1.0:
        assert grade(string_check("ilike"), answer, expected).value == 1.0


@pytest.mark.parametrize(
    ("answer", "expected", "value"),
    [
        ("refund", "refund", 1.0),
        ("", "", 1.0),
        ("", "refund", 0.0),
        ("abc", "xyz", 0.0),
        ("kitten", "sitting", 8 / 13),
        ("this is a test", "this is a test!", 28 / 29),
        ("Refund", "refund", 10 / 12),
    ],
)
def test_fuzzy_match_has_the_known_value(answer: str, expected: str, value: float) -> None:
    assert grade(parse(similarity()), answer, expected).value == pytest.approx(value)


@given(st.text(max_size=60), st.text(max_size=60))
def test_fuzzy_match_equals_the_library_and_is_a_symmetric_fraction(answer: str, expected: str) -> None:
    there, back = grade(parse(similarity()), answer, expected).value, grade(parse(similarity()), expected, answer).value
    assert there == back == fuzz.ratio(answer, expected) / 100
    assert there is not None
    assert 0 <= there <= 1


@pytest.mark.parametrize(
    "grader", [string_check("eq", "{{item.label}}"), parse(similarity(reference="{{item.label}}"))]
)
def test_a_row_without_the_reference_cannot_be_graded(grader: Grader) -> None:
    assert grade(grader, "x", "x") == Grade(None, "item.label is not there: item has no field label", Fault.TEMPLATE)


def test_an_answer_without_json_cannot_be_graded_by_its_fields() -> None:
    grader = parse(similarity(input="{{sample.output_json.label}}"))
    assert grade(grader, "no json", "x").value is None
    assert grade(grader, '{"label": "x"}', "x").value == 1.0


def test_the_threshold_has_a_default_that_is_echoed() -> None:
    assert parse(similarity()).spec()["pass_threshold"] == 0.5


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"type": None}, "GRADER_FIELD_MISSING", "grader.type"),
        ({"type": "telepathy"}, "GRADER_TYPE_UNKNOWN", "grader.type"),
        ({"type": 3}, "GRADER_TYPE_UNKNOWN", "grader.type"),
        ({"type": "python"}, "GRADER_TYPE_UNSERVED", "grader.type"),
        ({"name": None}, "GRADER_FIELD_MISSING", "grader.name"),
        ({"name": "  "}, "GRADER_NAME_INVALID", "grader.name"),
        ({"name": "n" * 101}, "GRADER_NAME_INVALID", "grader.name"),
        ({"input": None}, "GRADER_FIELD_MISSING", "grader.input"),
        ({"input": 7}, "GRADER_FIELD_TYPE", "grader.input"),
        ({"input": "x" * 100_001}, "GRADER_FIELD_TOO_LONG", "grader.input"),
        ({"reference": "{{ row.x }}"}, "TEMPLATE_NAMESPACE", "grader.reference"),
        ({"reference": "{{ item.x"}, "TEMPLATE_SYNTAX", "grader.reference"),
        ({"evaluation_metric": None}, "GRADER_FIELD_MISSING", "grader.evaluation_metric"),
        ({"evaluation_metric": "vibes"}, "GRADER_METRIC_UNKNOWN", "grader.evaluation_metric"),
        ({"model": "m"}, "GRADER_FIELD_UNKNOWN", "grader.model"),
        ({"pass_threshold": 1.5}, "GRADER_FIELD_RANGE", "grader.pass_threshold"),
        ({"pass_threshold": float("nan")}, "GRADER_FIELD_RANGE", "grader.pass_threshold"),
        ({"pass_threshold": "0.5"}, "GRADER_FIELD_TYPE", "grader.pass_threshold"),
        ({"pass_threshold": True}, "GRADER_FIELD_TYPE", "grader.pass_threshold"),
        ({"passthreshold": 0.5}, "GRADER_FIELD_UNKNOWN", "grader.passthreshold"),
    ],
)
def test_a_wrong_definition_is_refused_at_its_field(changes: dict[str, object], reason: str, field: str) -> None:
    with pytest.raises(Refusal) as refusal:
        parse({key: value for key, value in similarity(**changes).items() if value is not None})
    assert refusal.value.reason == reason
    assert refusal.value.fields[0].field == field
    assert isinstance(refusal.value, Unserved if reason.endswith("UNSERVED") else Invalid)


def test_a_nested_definition_is_refused_below_its_type() -> None:
    with pytest.raises(Invalid) as refusal:
        parse(similarity(input="{{"), path="eval.graders[2]", nested=True)
    assert refusal.value.fields[0].field == "eval.graders[2].text_similarity.input"
    with pytest.raises(Invalid) as refusal:
        parse(similarity(name=""), path="eval.graders[2]", nested=True)
    assert refusal.value.fields[0].field == "eval.graders[2].name"


def test_an_unknown_operation_is_refused_with_those_that_exist() -> None:
    with pytest.raises(Invalid, match="eq, ne, like, ilike, contains") as refusal:
        string_check("regex")
    assert (refusal.value.reason, refusal.value.fields[0].field) == ("GRADER_OPERATION_UNKNOWN", "grader.operation")


@pytest.mark.parametrize(
    ("specs", "reason", "field"),
    [
        ([], "GRADERS_MISSING", "eval.graders"),
        ([similarity(), similarity()], "GRADER_NAME_TAKEN", "eval.graders[1].name"),
        ([similarity(name=str(k)) for k in range(GRADERS_MAX + 1)], "GRADERS_TOO_MANY", "eval.graders"),
        ([similarity(), similarity(name="b", type="x")], "GRADER_TYPE_UNKNOWN", "eval.graders[1].type"),
    ],
)
def test_the_graders_of_an_eval_are_checked_together(specs: list[Spec], reason: str, field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_all(specs, path="eval.graders")
    assert (refusal.value.reason, refusal.value.fields[0].field) == (reason, field)


def test_a_long_answer_is_cut_in_the_reason_only() -> None:
    result = grade(string_check("eq"), "x" * 10_000, "y")
    assert result.value == 0.0
    assert len(result.why) < 200
