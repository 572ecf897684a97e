"""Templates: checked when defined, with the position of the fault; resolved or refused per row when graded."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.template import Unresolved, parse, parse_path
from feinschliff.kit.errors import Invalid

ITEM: Item = {
    "prompt": "Wo ist mein Paket?",
    "intent": {"label": "delivery", "scores": [0.25, 1, {"deep": "end"}]},
    "messages": [{"role": "user", "content": "hi {{ item.prompt }}"}],
    "größe": "ä",
    "snake_and-dash": "ok",
    "none": None,
    "flag": True,
}
SAMPLE = Sample('{"label": "delivery", "tags": ["a"]}', [{"function": {"name": "f", "arguments": '{"city": "Ulm"}'}}])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("no placeholder }} here", "no placeholder }} here"),
        ("{{item.prompt}}", "Wo ist mein Paket?"),
        ("{{ item.prompt }}", "Wo ist mein Paket?"),
        ("a {{\titem.intent.label\n}} b{{item.intent.scores[1]}}c", "a delivery b1c"),
        ("{{item.intent.scores[ 2 ].deep}}", "end"),
        ("{{item.größe}} {{item.snake_and-dash}}", "ä ok"),
        ("{{item.none}} {{item.flag}}", "null true"),
        ("{{item.intent.scores}}", '[0.25, 1, {"deep": "end"}]'),
        ("{{item.messages[0].content}}", "hi {{ item.prompt }}"),
        ("{{sample.output_text}}", SAMPLE.output_text),
        ("{{sample.output_json.label}} {{ sample.output_json.tags[0] }}", "delivery a"),
        ("{{sample.output_tools[0].function.name}}", "f"),
        ("{{sample.output_tools[0].function.arguments.city}}", "Ulm"),
        ("{{sample.output_tools[0].function.arguments}}", '{"city": "Ulm"}'),
        ("{x} { {item.prompt} }", "{x} { {item.prompt} }"),
    ],
)
def test_a_path_is_replaced_by_its_value_and_the_rest_stays(source: str, text: str) -> None:
    assert parse(source, field="input").render(ITEM, SAMPLE) == text


@pytest.mark.parametrize(
    ("source", "position", "reason"),
    [
        ("{{", 3, "TEMPLATE_SYNTAX"),
        ("{{ }}", 4, "TEMPLATE_SYNTAX"),
        ("{{ item.prompt", 15, "TEMPLATE_SYNTAX"),
        ("{{ item.prompt }", 16, "TEMPLATE_SYNTAX"),
        ("ok {{ item.prompt }} {{ item. }}", 30, "TEMPLATE_SYNTAX"),
        ("{{ item..a }}", 9, "TEMPLATE_SYNTAX"),
        ("{{ item.a[ }}", 10, "TEMPLATE_SYNTAX"),
        ("{{ item.a[-1] }}", 10, "TEMPLATE_SYNTAX"),
        ("{{ item.a[x] }}", 10, "TEMPLATE_SYNTAX"),
        ("{{ item.a[0 }}", 10, "TEMPLATE_SYNTAX"),
        ("{{ item a }}", 9, "TEMPLATE_SYNTAX"),
        ("{{ item.a | upper }}", 11, "TEMPLATE_SYNTAX"),
        ("{{ item.a + 1 }}", 11, "TEMPLATE_SYNTAX"),
        ("{{ 'item' }}", 4, "TEMPLATE_SYNTAX"),
        ("{{ item.0 }}", 9, "TEMPLATE_SYNTAX"),
        ("{{ sample }}", 4, "TEMPLATE_SYNTAX"),
        ("{{ sample.text }}", 4, "TEMPLATE_SYNTAX"),
        ("{{ sample[0] }}", 4, "TEMPLATE_SYNTAX"),
        ("{{ row.prompt }}", 4, "TEMPLATE_NAMESPACE"),
        ("x {{ __import__ }}", 6, "TEMPLATE_NAMESPACE"),
        ("{{ items.prompt }}", 4, "TEMPLATE_NAMESPACE"),
        ("{{ Item.prompt }}", 4, "TEMPLATE_NAMESPACE"),
    ],
)
def test_a_wrong_template_is_refused_with_its_position_when_defined(source: str, position: int, reason: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse(source, field="grader.input")
    assert refusal.value.reason == reason
    assert refusal.value.metadata["position"] == str(position)
    assert f"character {position}" in refusal.value.message
    assert refusal.value.fields[0].field == "grader.input"


def test_a_prompt_cannot_name_the_answer() -> None:
    with pytest.raises(Invalid) as refusal:
        parse("{{ sample.output_text }}", field="prompt", namespaces=("item",))
    assert refusal.value.reason == "TEMPLATE_NAMESPACE"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{item.answer}}", "item.answer is not there: item has no field answer"),
        ("{{item.intent.label.x}}", "item.intent.label.x is not there: item.intent.label is a string, not an object"),
        ("{{item.intent.scores[9]}}", "item.intent.scores[9] is not there: item.intent.scores has 3 elements"),
        ("{{item.intent[0]}}", "item.intent[0] is not there: item.intent is an object, not a list"),
        ("{{item.none.x}}", "item.none.x is not there: item.none is null, not an object"),
        ("{{item.intent.scores.a}}", "item.intent.scores.a is not there: item.intent.scores is a list, not an object"),
        ("{{item.flag[0]}}", "item.flag[0] is not there: item.flag is a boolean, not a list"),
        ("{{sample.output_json.x}}", "sample.output_json.x is not there: sample.output_json has no field x"),
        ("{{sample.output_tools[1]}}", "sample.output_tools[1] is not there: sample.output_tools has 1 elements"),
    ],
)
def test_a_path_that_a_row_lacks_is_unresolved_and_says_where_it_ends(source: str, why: str) -> None:
    with pytest.raises(Unresolved) as unresolved:
        parse(source, field="input").render(ITEM, SAMPLE)
    assert str(unresolved.value) == why


@pytest.mark.parametrize("text", ["delivery", "{'a': 1}", "", "NaN", '{"a": 1} and more'])
def test_an_answer_that_is_not_json_has_no_output_json(text: str) -> None:
    with pytest.raises(Unresolved, match="sample has no field output_json"):
        parse("{{sample.output_json}}", field="input").render(ITEM, Sample(text))


def test_arguments_that_are_not_json_have_no_fields() -> None:
    sample = Sample("", [{"function": {"arguments": "{broken"}}])
    with pytest.raises(Unresolved, match="arguments is not JSON"):
        parse("{{sample.output_tools[0].function.arguments.city}}", field="input").render(ITEM, sample)


def test_a_bare_path_gives_the_value_itself() -> None:
    path = parse_path(" item.intent.scores ", field="item_reference")
    assert path.value({"item": ITEM}) == [0.25, 1, {"deep": "end"}]
    with pytest.raises(Invalid):
        parse_path("item.a b", field="item_reference")
    with pytest.raises(Invalid):
        parse_path("sample.output_text", field="item_reference")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(value=json_values, before=st.text("abc {}\n"), after=st.text("abc {}\n"))
def test_any_value_is_rendered_as_itself_or_as_json(value: object, before: str, after: str) -> None:
    before, after = before.replace("{", ""), after.replace("{", "").lstrip("}")
    rendered = parse(f"{before}{{{{ item.v }}}}{after}", field="input").render({"v": value})
    body = rendered[len(before) : len(rendered) - len(after)]
    assert rendered.startswith(before)
    assert body == value if isinstance(value, str) else json.loads(body) == value


@given(st.text("{}[]. itemsaple0_outxj\n", max_size=40))
def test_no_text_breaks_the_parser(source: str) -> None:
    try:
        kept = parse(source, field="input").source
    except Invalid as refusal:
        kept = source
        position = int(refusal.metadata["position"])
    else:
        position = 1
    assert kept == source
    assert 1 <= position <= len(source) + 1
