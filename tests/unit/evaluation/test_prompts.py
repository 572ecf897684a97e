"""From a row to messages, and to the item that graders see."""

from __future__ import annotations

import pytest

from feinschliff.evaluation.prompts.prompt import Prompt, item_of
from feinschliff.formats.records import Message
from feinschliff.graders.template import Unresolved
from feinschliff.kit.errors import Invalid, Refusal

SYSTEM = {"role": "system", "content": "Route."}
USER = {"role": "user", "content": "Where is it?"}
ANSWER = {"role": "assistant", "content": "delivery"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}


def reference(path: str = "item.prompt") -> Prompt:
    return Prompt.from_spec({"item_reference": path}, field="eval.prompt")


def turns(*messages: tuple[str, str]) -> Prompt:
    spec = {"messages": [{"role": role, "text": text} for role, text in messages]}
    return Prompt.from_spec(spec, field="eval.prompt")


@pytest.mark.parametrize(
    ("messages", "prompt", "completion"),
    [
        ([SYSTEM, USER, ANSWER], [SYSTEM, USER], "delivery"),
        ([USER, ANSWER, USER, ANSWER], [USER, ANSWER, USER], "delivery"),
        ([USER, ANSWER, USER], [USER], "delivery"),
        ([SYSTEM, USER], [SYSTEM, USER], None),
        ([USER, CALL], [USER], None),
        ([], [], None),
    ],
)
def test_a_conversation_is_split_at_its_last_assistant_turn(
    messages: list[object], prompt: list[object], completion: str | None
) -> None:
    item = item_of({"messages": messages, "line": 3, "customer": "x"})
    assert item["prompt"] == prompt
    assert item.get("completion") == completion
    assert (item["messages"], item["line"], item["customer"]) == (messages, 3, "x")


def test_fields_of_the_row_are_never_replaced() -> None:
    row = {"messages": [USER, ANSWER], "prompt": "mine", "completion": "mine too"}
    assert item_of(row) == row


def test_a_row_that_is_no_conversation_stays_as_it_is() -> None:
    row = {"text": "x", "label": "y"}
    assert item_of(row) == row


def test_messages_of_the_row_are_replayed() -> None:
    item = item_of({"messages": [SYSTEM, USER, ANSWER]})
    assert reference().render(item) == [
        Message(role="system", content="Route."),
        Message(role="user", content="Where is it?"),
    ]


def test_a_text_of_the_row_is_one_user_message() -> None:
    assert reference("item.question").render({"question": "Why?"}) == [Message(role="user", content="Why?")]


@pytest.mark.parametrize("value", [[], 7, None, [{"role": "robot", "content": "x"}], ["x"], {"role": "user"}])
def test_what_is_no_list_of_messages_is_unresolved(value: object) -> None:
    with pytest.raises(Unresolved, match=r"item\.prompt"):
        reference().render({"prompt": value})


def test_turns_are_filled_in_from_the_row() -> None:
    prompt = turns(("system", "Route: {{ item.labels[0] }}"), ("user", "{{ item.text }}"))
    assert [turn.content for turn in prompt.render({"labels": ["a"], "text": "b"})] == ["Route: a", "b"]
    with pytest.raises(Unresolved, match="item has no field text"):
        prompt.render({"labels": ["a"]})


@pytest.mark.parametrize(
    ("spec", "reason", "field"),
    [
        ({"messages": []}, "PROMPT_MISSING", "eval.prompt.messages.messages"),
        ({}, "PROMPT_MISSING", "eval.prompt.messages.messages"),
        ({"messages": [{"role": "user", "text": "x"}] * 65}, "PROMPT_TOO_LONG", "eval.prompt.messages.messages"),
        (
            {"messages": [{"role": "user", "text": "x" * 100_001}]},
            "PROMPT_TOO_LONG",
            "eval.prompt.messages.messages[0].text",
        ),
        (
            {"messages": [{"role": None, "text": "x"}]},
            "PROMPT_ROLE_UNKNOWN",
            "eval.prompt.messages.messages[0].role",
        ),
        ({"item_reference": "item.a b"}, "TEMPLATE_SYNTAX", "eval.prompt.item_reference"),
        ({"item_reference": ""}, "TEMPLATE_SYNTAX", "eval.prompt.item_reference"),
        ({"prompt": "projects/p/prompts/x"}, "NAME_MALFORMED", "eval.prompt.prompt"),
    ],
)
def test_a_wrong_prompt_is_refused_at_its_field(spec: dict[str, object], reason: str, field: str) -> None:
    with pytest.raises(Refusal) as refusal:
        Prompt.from_spec(spec, field="eval.prompt")
    assert (refusal.value.reason, refusal.value.fields[0].field) == (reason, field)


def test_a_prompt_cannot_see_the_answer() -> None:
    with pytest.raises(Invalid) as refusal:
        turns(("user", "{{ sample.output_text }}"))
    assert refusal.value.reason == "TEMPLATE_NAMESPACE"
