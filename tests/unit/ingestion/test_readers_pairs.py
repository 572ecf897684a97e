"""Instruction pairs and dialogues with markers: what they become, and why bad ones are refused."""

from __future__ import annotations

import orjson
import pytest

from feinschliff.formats.records import Record
from feinschliff.ingestion.findings import ADVICE
from feinschliff.ingestion.readers import READERS
from feinschliff.ingestion.readers.human_assistant import HumanAssistantReader
from feinschliff.ingestion.readers.instruction import InstructionReader
from feinschliff.ingestion.readers.reader import BadRow, Reader


def read(reader: type[Reader], line: bytes, **columns: str) -> dict[str, object]:
    return reader(columns).read(line)


def problems(reader: type[Reader], line: bytes) -> list[tuple[str, str]]:
    with pytest.raises(BadRow) as caught:
        read(reader, line)
    return [(problem.code, problem.field) for problem in caught.value.problems]


PAIR = {"instruction": "Translate.", "output": "Hallo"}
GOOD_PAIRS = {
    "without input": (PAIR, [("user", "Translate."), ("assistant", "Hallo")]),
    "with input": ({**PAIR, "input": "Hello"}, [("user", "Translate.\n\nHello"), ("assistant", "Hallo")]),
    "empty input": ({**PAIR, "input": ""}, [("user", "Translate."), ("assistant", "Hallo")]),
    "null input": ({**PAIR, "input": None}, [("user", "Translate."), ("assistant", "Hallo")]),
    "with system": (
        {**PAIR, "system": "Be brief."},
        [("system", "Be brief."), ("user", "Translate."), ("assistant", "Hallo")],
    ),
}


@pytest.mark.parametrize("shape", GOOD_PAIRS)
def test_instruction_becomes_a_conversation(shape: str) -> None:
    row, turns = GOOD_PAIRS[shape]
    content = read(InstructionReader, orjson.dumps(row))
    assert content == {"messages": [{"role": role, "content": text} for role, text in turns]}


BAD_PAIRS: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "broken": (b'{"instruction": ', [("broken_json", "")]),
    "no output": (orjson.dumps({"instruction": "a"}), [("missing_key", "output")]),
    "no instruction": (orjson.dumps({"output": "a"}), [("missing_key", "instruction")]),
    "nothing": (b"{}", [("missing_key", "instruction"), ("missing_key", "output")]),
    "empty output": (orjson.dumps({**PAIR, "output": " "}), [("empty_content", "output")]),
    "empty instruction": (orjson.dumps({**PAIR, "instruction": ""}), [("empty_content", "instruction")]),
    "output a list": (orjson.dumps({**PAIR, "output": ["a"]}), [("wrong_type", "output")]),
    "input a number": (orjson.dumps({**PAIR, "input": 5}), [("wrong_type", "input")]),
    "unknown key": (orjson.dumps({**PAIR, "history": []}), [("unrecognized_key", "history")]),
}


@pytest.mark.parametrize("shape", BAD_PAIRS)
def test_bad_instruction_is_refused_by_code_and_field(shape: str) -> None:
    line, expected = BAD_PAIRS[shape]
    assert problems(InstructionReader, line) == expected


def test_columns_name_where_the_fields_are() -> None:
    row = orjson.dumps({"question": "1 + 1?", "answer": "2"})
    content = read(InstructionReader, row, instruction="question", output="answer")
    assert content["messages"] == [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]


GOOD_DIALOGUES = {
    "plain": (b"###Human: Hi ###Assistant: Hello", [("user", "Hi"), ("assistant", "Hello")]),
    "blanks in markers": (b"### Human: Hi ### Assistant : Hello", [("user", "Hi"), ("assistant", "Hello")]),
    "several turns": (
        b"###Human: a ###Assistant: b ###Human: c ###Assistant: d",
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
    ),
    "ends with Human": (b"###Human: a ###Assistant: b ###Human: c", [("user", "a"), ("assistant", "b"), ("user", "c")]),
    "system first": (
        b"###System: s ###Human: a ###Assistant: b",
        [("system", "s"), ("user", "a"), ("assistant", "b")],
    ),
    "in JSON": (orjson.dumps({"text": "### Human: a\nb\n### Assistant: c"}), [("user", "a\nb"), ("assistant", "c")]),
    "carriage return": (b"###Human: Hi ###Assistant: Hello\r", [("user", "Hi"), ("assistant", "Hello")]),
    "other hashes stay": (b"###Human: a ### b ###Assistant: c#", [("user", "a ### b"), ("assistant", "c#")]),
}


@pytest.mark.parametrize("shape", GOOD_DIALOGUES)
def test_dialogue_becomes_a_conversation(shape: str) -> None:
    line, turns = GOOD_DIALOGUES[shape]
    content = read(HumanAssistantReader, line)
    assert content == {"messages": [{"role": role, "content": text} for role, text in turns]}


BAD_DIALOGUES: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "no marker": (b"Hello there", [("missing_turn_marker", "")]),
    "no marker in JSON": (b'{"text": "hello"}', [("missing_turn_marker", "text")]),
    "text before": (b"Hello ###Human: a ###Assistant: b", [("text_before_first_turn", "")]),
    "empty turn": (b"###Human: ###Assistant: b", [("empty_content", "turn[0]")]),
    "empty answer": (b"###Human: a ###Assistant:", [("empty_content", "turn[1]")]),
    "no answer": (b"###Human: a", [("example_missing_assistant_message", "")]),
    "answer first": (b"###Assistant: a ###Human: b", [("turn_order", "turn[0]")]),
    "Human twice": (b"###Human: a ###Human: b ###Assistant: c", [("turn_order", "turn[1]")]),
    "system late": (b"###Human: a ###System: b ###Assistant: c", [("turn_order", "turn[1]")]),
    "Latin-1": ("###Human: ä ###Assistant: b".encode("latin-1"), [("bad_utf8", "")]),
    "broken JSON": (b'{"text": "###Human', [("broken_json", "")]),
    "other key": (b'{"text": "###Human: a ###Assistant: b", "id": 1}', [("unrecognized_key", "id")]),
    "text a list": (b'{"text": []}', [("wrong_type", "text")]),
    "no text": (b"{}", [("missing_key", "text")]),
}


@pytest.mark.parametrize("shape", BAD_DIALOGUES)
def test_bad_dialogue_is_refused_by_code_and_field(shape: str) -> None:
    line, expected = BAD_DIALOGUES[shape]
    assert problems(HumanAssistantReader, line) == expected


def test_every_code_has_advice() -> None:
    codes = {code for table in (BAD_PAIRS, BAD_DIALOGUES) for _, expected in table.values() for code, _ in expected}
    assert codes <= set(ADVICE)


@pytest.mark.parametrize("name", READERS)
def test_reader_reads_its_own_example(name: str) -> None:
    reader = READERS[name]({})
    line = orjson.dumps(dict(reader.description.example))
    assert reader.recognises(line)
    Record.model_validate(reader.read(line))
