"""Every shape of conversation, good and bad: what is read, and which code and field a bad one is refused with."""

from __future__ import annotations

import orjson
import pytest

from feinschliff.formats.records import Record
from feinschliff.ingestion.findings import ADVICE
from feinschliff.ingestion.readers.chat import ChatReader, is_plain, normalise
from feinschliff.ingestion.readers.reader import PROBLEMS_PER_ROW_MAX, BadRow

USER = {"role": "user", "content": "Where is my parcel?"}
ASSISTANT = {"role": "assistant", "content": "On its way."}
CALL = {"id": "call_1", "type": "function", "function": {"name": "track", "arguments": '{"order": 7}'}}
TOOL = {"type": "function", "function": {"name": "track", "description": "Finds parcels.", "parameters": {}}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "call_1", "content": "on its way"}


def chat(*messages: object, **other: object) -> bytes:
    return orjson.dumps({"messages": list(messages), **other})


def read(line: bytes) -> dict[str, object]:
    return ChatReader({}).read(line)


def problems(line: bytes) -> list[tuple[str, str]]:
    with pytest.raises(BadRow) as caught:
        read(line)
    return [(problem.code, problem.field) for problem in caught.value.problems]


GOOD_CHAT = {
    "plain": (chat(USER, ASSISTANT), [USER, ASSISTANT]),
    "all roles": (
        chat({"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, USER, ASSISTANT),
        [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, USER, ASSISTANT],
    ),
    "several turns": (chat(USER, ASSISTANT, USER, ASSISTANT), [USER, ASSISTANT, USER, ASSISTANT]),
    "ends with the user": (chat(USER, ASSISTANT, USER), [USER, ASSISTANT, USER]),
    "weight 0 beside weight 1": (
        chat(USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}),
        [USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}],
    ),
    "names": (chat({**USER, "name": "ada"}, ASSISTANT), [{**USER, "name": "ada"}, ASSISTANT]),
    "nulls are absent": (
        chat(USER, {**ASSISTANT, "weight": None, "tool_calls": None, "name": None}),
        [USER, ASSISTANT],
    ),
    "dumped answers": (chat(USER, {**ASSISTANT, "refusal": None, "audio": None, "annotations": []}), [USER, ASSISTANT]),
    "text parts are joined": (
        chat(
            {"role": "user", "content": [{"type": "text", "text": "Where is "}, {"type": "text", "text": "it?"}]},
            ASSISTANT,
        ),
        [{"role": "user", "content": "Where is it?"}, ASSISTANT],
    ),
    "tool calls without content": (chat(USER, CALLING), [USER, CALLING]),
    "tool calls with empty content": (chat(USER, {**CALLING, "content": ""}), [USER, CALLING]),
    "tool calls with content": (
        chat(USER, {**CALLING, "content": "A moment."}),
        [USER, {**CALLING, "content": "A moment."}],
    ),
    "tool results": (chat(USER, CALLING, ANSWERED, ASSISTANT), [USER, CALLING, ANSWERED, ASSISTANT]),
    "empty tool result": (
        chat(USER, CALLING, {**ANSWERED, "content": ""}, ASSISTANT),
        [USER, CALLING, {**ANSWERED, "content": ""}, ASSISTANT],
    ),
    "old function call": (
        chat(
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "track", "arguments": "{}"}},
            {"role": "function", "name": "track", "content": "ok"},
            ASSISTANT,
        ),
        [
            USER,
            {
                "role": "assistant",
                "tool_calls": [{"type": "function", "function": {"name": "track", "arguments": "{}"}}],
            },
            {"role": "function", "name": "track", "content": "ok"},
            ASSISTANT,
        ],
    ),
    "not only ASCII": (chat({"role": "user", "content": "Wo ist mein Päckchen? 📦"}, ASSISTANT), None),
    "line feeds inside": (chat({"role": "user", "content": "a\n\nb"}, ASSISTANT), None),
    "carriage return at the end": (chat(USER, ASSISTANT) + b"\r", [USER, ASSISTANT]),
}


@pytest.mark.parametrize("shape", GOOD_CHAT)
def test_good_conversation_is_read(shape: str) -> None:
    line, messages = GOOD_CHAT[shape]
    content = read(line)
    assert content["messages"] == (messages or orjson.loads(line)["messages"])
    Record.model_validate(content)


def test_tools_are_kept_and_functions_become_tools() -> None:
    kept = {"type": "function", "function": {"name": "track", "strict": True}}
    assert read(chat(USER, ASSISTANT, tools=[kept], parallel_tool_calls=False))["tools"] == [kept]
    functions = [{"name": "track", "description": None}]
    read_back = read(chat(USER, ASSISTANT, functions=functions))
    assert read_back["tools"] == [{"type": "function", "function": {"name": "track"}}]


BAD_CHAT: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "broken JSON": (b'{"messages": [', [("broken_json", "")]),
    "trailing comma": (b'{"messages": [],}', [("broken_json", "")]),
    "two objects": (b'{"messages": []}{"messages": []}', [("broken_json", "")]),
    "single quotes": (b"{'messages': []}", [("broken_json", "")]),
    "NaN": (b'{"messages": NaN}', [("broken_json", "")]),
    "NUL byte": (b'{"messages": "\x00"}', [("broken_json", "")]),
    "half a surrogate pair": (b'{"messages": "\\ud800"}', [("broken_json", "")]),
    "nested too deep": (b"[" * 3000, [("broken_json", "")]),
    "Latin-1": ('{"messages": "ä"}'.encode("latin-1"), [("bad_utf8", "")]),
    "cut inside a character": (b'{"messages": "\xc3"}', [("bad_utf8", "")]),
    "a list": (b"[1, 2]", [("not_an_object", "")]),
    "a string": (b'"hello"', [("not_an_object", "")]),
    "a number": (b"7", [("not_an_object", "")]),
    "null": (b"null", [("not_an_object", "")]),
    "no messages": (b'{"tools": []}', [("missing_messages_list", "messages")]),
    "messages null": (b'{"messages": null}', [("missing_messages_list", "messages")]),
    "messages a string": (b'{"messages": "hi"}', [("missing_messages_list", "messages")]),
    "messages an object": (b'{"messages": {}}', [("missing_messages_list", "messages")]),
    "messages empty": (chat(), [("missing_messages_list", "messages")]),
    "unknown key": (chat(USER, ASSISTANT, metadata={}), [("unrecognized_key", "metadata")]),
    "two unknown keys": (chat(USER, ASSISTANT, a=1, b=2), [("unrecognized_key", "a"), ("unrecognized_key", "b")]),
    "key that may be content": (
        orjson.dumps({"messages": [USER, ASSISTANT], "Dr. Who?": 1}),
        [("unrecognized_key", "")],
    ),
    "message a string": (chat("hi", ASSISTANT), [("wrong_type", "messages[0]")]),
    "message null": (chat(USER, None), [("wrong_type", "messages[1]")]),
    "no role": (chat({"content": "hi"}, ASSISTANT), [("message_missing_key", "messages[0].role")]),
    "role null": (chat({"role": None, "content": "hi"}, ASSISTANT), [("message_missing_key", "messages[0].role")]),
    "role a number": (chat({"role": 1, "content": "hi"}, ASSISTANT), [("wrong_type", "messages[0].role")]),
    "role a list": (chat({"role": ["user"], "content": "hi"}, ASSISTANT), [("wrong_type", "messages[0].role")]),
    "unknown role": (chat(USER, {"role": "asistant", "content": "x"}), [("unrecognized_role", "messages[1].role")]),
    "role in capitals": (
        chat(USER, {"role": "Assistant", "content": "x"}),
        [("unrecognized_role", "messages[1].role")],
    ),
    "no content": (chat({"role": "user"}, ASSISTANT), [("missing_content", "messages[0].content")]),
    "content null": (chat({"role": "user", "content": None}, ASSISTANT), [("missing_content", "messages[0].content")]),
    "answer without content": (chat(USER, {"role": "assistant"}), [("missing_content", "messages[1].content")]),
    "empty content": (chat({"role": "user", "content": ""}, ASSISTANT), [("empty_content", "messages[0].content")]),
    "blank answer": (chat(USER, {"role": "assistant", "content": " \n\t"}), [("empty_content", "messages[1].content")]),
    "no parts": (chat({"role": "user", "content": []}, ASSISTANT), [("empty_content", "messages[0].content")]),
    "content a number": (chat({"role": "user", "content": 5}, ASSISTANT), [("wrong_type", "messages[0].content")]),
    "content an object": (chat({"role": "user", "content": {}}, ASSISTANT), [("wrong_type", "messages[0].content")]),
    "part a string": (chat({"role": "user", "content": ["hi"]}, ASSISTANT), [("wrong_type", "messages[0].content[0]")]),
    "part without text": (
        chat({"role": "user", "content": [{"type": "text"}]}, ASSISTANT),
        [("wrong_type", "messages[0].content[0].text")],
    ),
    "part with more": (
        chat({"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}, ASSISTANT),
        [("message_unrecognized_key", "messages[0].content[0]")],
    ),
    "picture": (
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}, ASSISTANT),
        [("unsupported_content_part", "messages[0].content[0].type")],
    ),
    "no answer": (chat(USER), [("example_missing_assistant_message", "messages")]),
    "only the system": (chat({"role": "system", "content": "x"}), [("example_missing_assistant_message", "messages")]),
    "all weights 0": (chat(USER, {**ASSISTANT, "weight": 0}), [("nothing_to_train", "messages")]),
    "unknown message key": (chat({**USER, "text": "a"}, ASSISTANT), [("message_unrecognized_key", "messages[0]")]),
    "refusal said": (chat(USER, {**ASSISTANT, "refusal": "no"}), [("message_unrecognized_key", "messages[1]")]),
    "weight 2": (chat(USER, {**ASSISTANT, "weight": 2}), [("invalid_weight", "messages[1].weight")]),
    "weight one half": (chat(USER, {**ASSISTANT, "weight": 0.5}), [("invalid_weight", "messages[1].weight")]),
    "weight true": (chat(USER, {**ASSISTANT, "weight": True}), [("invalid_weight", "messages[1].weight")]),
    "weight a string": (chat(USER, {**ASSISTANT, "weight": "1"}), [("invalid_weight", "messages[1].weight")]),
    "weight on the user": (chat({**USER, "weight": 1}, ASSISTANT), [("invalid_weight", "messages[0].weight")]),
    "name a number": (chat({**USER, "name": 1}, ASSISTANT), [("wrong_type", "messages[0].name")]),
    "name too long": (chat({**USER, "name": "n" * 65}, ASSISTANT), [("wrong_type", "messages[0].name")]),
    "function without name": (
        chat(USER, {"role": "function", "content": "x"}, ASSISTANT),
        [("message_missing_key", "messages[1].name")],
    ),
    "tool without call id": (
        chat(USER, {"role": "tool", "content": "x"}, ASSISTANT),
        [("message_missing_key", "messages[1].tool_call_id")],
    ),
    "tool with unknown call id": (
        chat(USER, CALLING, {**ANSWERED, "tool_call_id": "call_2"}),
        [("unknown_tool_call_id", "messages[2].tool_call_id")],
    ),
    "result before its call": (chat(ANSWERED, CALLING), [("unknown_tool_call_id", "messages[0].tool_call_id")]),
    "call id a number": (
        chat(USER, CALLING, {**ANSWERED, "tool_call_id": 1}),
        [("wrong_type", "messages[2].tool_call_id")],
    ),
    "call id on an answer": (
        chat(USER, {**ASSISTANT, "tool_call_id": "x"}),
        [("message_unrecognized_key", "messages[1]")],
    ),
    "user calls a tool": (
        chat({**USER, "tool_calls": [CALL]}, ASSISTANT),
        [("message_unrecognized_key", "messages[0]")],
    ),
    "tool calls empty": (
        chat(USER, {"role": "assistant", "content": "x", "tool_calls": []}),
        [("wrong_type", "messages[1].tool_calls")],
    ),
    "tool calls an object": (
        chat(USER, {**ASSISTANT, "tool_calls": {}}),
        [("wrong_type", "messages[1].tool_calls")],
    ),
    "call a string": (chat(USER, {**ASSISTANT, "tool_calls": ["x"]}), [("wrong_type", "messages[1].tool_calls[0]")]),
    "call without id": (
        chat(USER, {"role": "assistant", "tool_calls": [{**CALL, "id": None}]}),
        [("invalid_tool_call", "messages[1].tool_calls[0].id")],
    ),
    "two calls with one id": (
        chat(USER, {"role": "assistant", "tool_calls": [CALL, CALL]}),
        [("invalid_tool_call", "messages[1].tool_calls[1].id")],
    ),
    "call of another type": (
        chat(USER, {"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}),
        [("invalid_tool_call", "messages[1].tool_calls[0].type")],
    ),
    "call with more": (
        chat(USER, {"role": "assistant", "tool_calls": [{**CALL, "index": 0}]}),
        [("invalid_tool_call", "messages[1].tool_calls[0]")],
    ),
    "call without function": (
        chat(USER, {"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]}),
        [("invalid_tool_call", "messages[1].tool_calls[0].function")],
    ),
    "arguments an object": (
        chat(USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "t", "arguments": {}}}]}),
        [("invalid_tool_call", "messages[1].tool_calls[0].function.arguments")],
    ),
    "arguments no JSON": (
        chat(USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "t", "arguments": "{"}}]}),
        [("invalid_tool_call", "messages[1].tool_calls[0].function.arguments")],
    ),
    "call without name": (
        chat(USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {"arguments": "{}"}}]}),
        [("invalid_tool_call", "messages[1].tool_calls[0].function.name")],
    ),
    "both spellings of calls": (
        chat(USER, {"role": "assistant", "tool_calls": [CALL], "function_call": {"name": "t", "arguments": "{}"}}),
        [("invalid_tool_call", "messages[1].function_call")],
    ),
    "tools an object": (chat(USER, ASSISTANT, tools={}), [("wrong_type", "tools")]),
    "functions a string": (chat(USER, ASSISTANT, functions="f"), [("wrong_type", "functions")]),
    "tool a string": (chat(USER, ASSISTANT, tools=["t"]), [("wrong_type", "tools[0]")]),
    "tool of another type": (
        chat(USER, ASSISTANT, tools=[{**TOOL, "type": "retrieval"}]),
        [("invalid_tool", "tools[0].type")],
    ),
    "tool without function": (
        chat(USER, ASSISTANT, tools=[{"type": "function"}]),
        [("invalid_tool", "tools[0].function")],
    ),
    "tool without name": (
        chat(USER, ASSISTANT, tools=[{"type": "function", "function": {}}]),
        [("invalid_tool", "tools[0].function.name")],
    ),
    "parameters a string": (
        chat(USER, ASSISTANT, functions=[{"name": "f", "parameters": "x"}]),
        [("wrong_type", "functions[0].parameters")],
    ),
    "unknown tool key": (
        chat(USER, ASSISTANT, functions=[{"name": "f", "returns": {}}]),
        [("invalid_tool", "functions[0]")],
    ),
    "both spellings of tools": (
        chat(USER, ASSISTANT, tools=[TOOL], functions=[{"name": "f"}]),
        [("invalid_tool", "functions")],
    ),
    "parallel_tool_calls a string": (
        chat(USER, ASSISTANT, parallel_tool_calls="yes"),
        [("wrong_type", "parallel_tool_calls")],
    ),
    "everything at once": (
        orjson.dumps({"messages": [{"role": "usr"}, {"role": "user", "content": ""}, {"content": "x"}], "extra": 1}),
        [
            ("unrecognized_key", "extra"),
            ("unrecognized_role", "messages[0].role"),
            ("empty_content", "messages[1].content"),
            ("message_missing_key", "messages[2].role"),
        ],
    ),
}


@pytest.mark.parametrize("shape", BAD_CHAT)
def test_bad_conversation_is_refused_by_code_and_field(shape: str) -> None:
    line, expected = BAD_CHAT[shape]
    assert problems(line) == expected


def test_problems_of_one_row_are_bounded() -> None:
    assert len(problems(chat(*[{"role": "x", "content": "y"}] * 100))) == PROBLEMS_PER_ROW_MAX


def test_messages_repeat_nothing_that_may_be_content() -> None:
    secret = "My IBAN is DE02 1203 0000 0000 2020 51"
    row = {"messages": [{"role": secret, "content": {"x": secret}, secret: secret}, ASSISTANT], secret: secret}
    with pytest.raises(BadRow) as caught:
        read(orjson.dumps(row))
    assert len(caught.value.problems) == 3
    assert "IBAN" not in str(caught.value)


@pytest.mark.parametrize("shape", GOOD_CHAT)
def test_fast_path_gives_what_the_careful_path_gives(shape: str) -> None:
    row = orjson.loads(GOOD_CHAT[shape][0])
    if is_plain(row):
        assert normalise(row) == row


def test_every_code_has_advice() -> None:
    codes = {code for _, expected in BAD_CHAT.values() for code, _ in expected}
    assert codes <= set(ADVICE)
    assert len(codes) >= 15
