"""Calls out of text: found whatever the pieces, and nothing else taken for one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.inference.dialects import HERMES, LLAMA, MISTRAL, Dialect, dialect_of
from feinschliff.inference.toolcalls import Arguments, Call, CallReader, Said, Text
from feinschliff.kit.errors import Invalid

TOOLS = {"look", "add"}
LOOK = '{"city": "Ulm {\\"<tool_call>\\"}", "days": [1, 2]}'


def call(name: str = "look", key: str = "arguments", arguments: str = LOOK) -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def read(dialect: Dialect, pieces: list[str], *, single: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """The text, and name and arguments of each call."""
    reader = CallReader(dialect, TOOLS, single=single)
    said: list[Said] = [one for piece in pieces for one in reader.push(piece)] + reader.flush()
    text, calls = "", list[tuple[str, str]]()
    for one in said:
        match one:
            case Text(words):
                text += words
            case Call(number, name):
                assert number == len(calls)
                calls.append((name, ""))
            case Arguments(number, words):
                assert number == len(calls) - 1
                calls[number] = (calls[number][0], calls[number][1] + words)
    assert reader.calls == len(calls)
    return text, calls


def tagged(text: str) -> str:
    return f"<tool_call>\n{text}\n</tool_call>"


CASES: list[tuple[Dialect, str, str, list[tuple[str, str]]]] = [
    (HERMES, "no calls <here> {}", "no calls <here> {}", []),
    (HERMES, tagged(call()), "", [("look", LOOK)]),
    (HERMES, f"Let me see.\n{tagged(call())}", "Let me see.", [("look", LOOK)]),
    (HERMES, f"{tagged(call())}\n{tagged(call('add', arguments='{}'))}", "", [("look", LOOK), ("add", "{}")]),
    (HERMES, tagged('{"arguments": {"a": 1}, "name": "look"}'), "", [("look", '{"a":1}')]),
    (HERMES, tagged('{ "name" : "look",\n "arguments" : {} }'), "", [("look", "{}")]),
    (HERMES, tagged('{"name": "look"}'), "", [("look", "{}")]),
    (HERMES, tagged('{"name": "look", "arguments": "{\\"a\\": 1}"}'), "", [("look", '{"a": 1}')]),
    (HERMES, f"a {tagged(call())} b", "a b", [("look", LOOK)]),
    (HERMES, "<tool_call>oh no", "<tool_call>oh no", []),
    (HERMES, "x <tool_call> y <tool_cal", "x <tool_call> y <tool_cal", []),
    (HERMES, "ends <tool_call>", "ends <tool_call>", []),
    (HERMES, f"<tool_call>{call()[:40]}", "", [("look", LOOK[:10])]),
    (HERMES, "blanks \n", "blanks \n", []),
    (LLAMA, call(key="parameters"), "", [("look", LOOK)]),
    (LLAMA, f"<|python_tag|>{call(key='parameters')}", "", [("look", LOOK)]),
    (LLAMA, f"{call(key='parameters')}; {call('add', 'parameters', '{}')}", "", [("look", LOOK), ("add", "{}")]),
    (LLAMA, '{"name": "Bob", "parameters": {"age": 3}}', '{"name": "Bob", "parameters": {"age": 3}}', []),
    (LLAMA, '{"a": {"b": 1}}', '{"a": {"b": 1}}', []),
    (LLAMA, 'I say {"name": "look"}', 'I say {"name": "look"}', []),
    (LLAMA, '{"name": "loo', '{"name": "loo', []),
    (MISTRAL, f"[TOOL_CALLS] [{call()}, {call('add', arguments='{}')}]", "", [("look", LOOK), ("add", "{}")]),
    (MISTRAL, f"[TOOL_CALLS]{call()}", "", [("look", LOOK)]),
    (MISTRAL, "a list [1, 2]", "a list [1, 2]", []),
]


@pytest.mark.parametrize(("dialect", "answer", "text", "calls"), CASES)
def test_calls_and_text_are_told_apart(dialect: Dialect, answer: str, text: str, calls: list[tuple[str, str]]) -> None:
    found = read(dialect, [answer])
    assert (found[0].split(), found[1]) == (text.split(), calls)
    if not calls:
        assert found[0] == text


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CASES), st.lists(st.integers(0, 120)))
def test_where_the_text_is_cut_changes_nothing(
    case: tuple[Dialect, str, str, list[tuple[str, str]]], cuts: list[int]
) -> None:
    dialect, answer = case[:2]
    places = sorted({min(place, len(answer)) for place in cuts} | {0, len(answer)})
    pieces = [answer[a:b] for a, b in pairwise(places)]
    assert read(dialect, pieces) == read(dialect, [answer]) == read(dialect, list(answer))


def test_arguments_are_given_out_while_they_grow() -> None:
    reader = CallReader(HERMES, TOOLS)
    assert reader.push('<tool_call>{"name": "look", "arguments": ') == []
    assert reader.push('{"ci') == [Call(0, "look"), Arguments(0, '{"ci')]
    assert reader.push('ty"') == [Arguments(0, 'ty"')]


@pytest.mark.parametrize(
    ("dialect", "answer"),
    [(HERMES, f"{tagged(call())}\n{tagged(call('add'))} more"), (MISTRAL, f"[TOOL_CALLS][{call()}, {call('add')}]")],
)
def test_one_call_at_most_where_one_is_wanted(dialect: Dialect, answer: str) -> None:
    for pieces in ([answer], list(answer)):
        assert read(dialect, pieces, single=True) == ("", [("look", LOOK)])


@pytest.mark.parametrize(
    ("template", "dialect"),
    [
        ("{% if tools %}<tool_call>{% endif %}", HERMES),
        ("{{ tools }}[TOOL_CALLS]", MISTRAL),
        ("{%- if tools is not none %}<|python_tag|>", LLAMA),
        ('{{ tools | tojson }} Respond in the format {"name": function name, "parameters": dictionary}', LLAMA),
    ],
)
def test_a_template_says_how_its_calls_are_written(template: str, dialect: Dialect) -> None:
    assert dialect_of(template) is dialect


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ messages }}", "no place for tools"),
        ("{{ tools }} <tool_call><function=", "does not read"),
        ("{{ tools }}", "does not read"),
    ],
)
def test_templates_that_take_no_tools_are_refused_with_the_reason(template: str, why: str) -> None:
    with pytest.raises(Invalid) as refused:
        dialect_of(template)
    assert refused.value.reason == "TOOLS_UNSUPPORTED"
    assert why in refused.value.metadata["why"]
