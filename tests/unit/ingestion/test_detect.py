"""What a file is told to be from its first rows."""

from __future__ import annotations

import gzip
import random

import pytest

from feinschliff.ingestion.readers.detect import binary_kind, describe, detect

CHAT = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
PAIR = b'{"instruction": "a", "output": "b"}'
DIALOGUE = b"###Human: a ###Assistant: b"


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ([CHAT], ("chat",)),
        ([b'{"messages": "nonsense"}'], ("chat",)),
        ([PAIR], ("instruction",)),
        ([b'{"instruction": "a"}'], ("instruction",)),
        ([DIALOGUE], ("human_assistant",)),
        ([b'{"text": "### Human: a ### Assistant: b"}'], ("human_assistant",)),
        ([b"{broken", CHAT], ("chat",)),
        ([b"{broken", b"{broken too"], ("chat",)),
        ([CHAT, PAIR], ("chat", "instruction")),
        ([b'{"messages": [], "instruction": "a"}'], ("chat", "instruction")),
        ([b'{"prompt": "a", "completion": "b"}'], ()),
        ([b'{"text": "plain"}'], ("text",)),
        ([b'{"text": "plain", "id": 1}'], ()),
        ([b'{"text": "a", "label": "b"}'], ("classification",)),
        ([b'{"text": "a", "labels": []}'], ("classification",)),
        ([b'{"text": "### Human: a ### Assistant: b", "label": "rude"}'], ("classification",)),
        ([b'{"text": "a", "value": 1}'], ("regression",)),
        ([b'{"text": "a", "value": 1, "label": "b"}'], ("classification", "regression")),
        ([b'{"prompt": "a", "completion": "b", "label": true}'], ()),
        ([b'{"text": "plain"}', DIALOGUE], ("human_assistant",)),
        ([b'{"text": "plain"}', b'{"text": "a", "label": "b"}'], ("classification",)),
        ([b"[", b"  {", b'    "messages": ['], ()),
        ([b"question,answer", b"a,b"], ()),
        ([b"[1, 2]"], ()),
        ([], ()),
    ],
)
def test_format_is_recognised_or_not(lines: list[bytes], names: tuple[str, ...]) -> None:
    assert detect(lines, {}).names == names


def test_columns_help_to_recognise() -> None:
    line = b'{"question": "a", "answer": "b"}'
    assert detect([line], {}).names == ()
    assert detect([line], {"instruction": "question", "output": "answer"}).names == ("instruction",)


def test_only_the_named_formats_are_tried() -> None:
    assert detect([CHAT], {}, among=["instruction", "human_assistant"]).names == ()


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b'{"prompt": "a", "completion": "b"}', "objects with the keys `completion`, `prompt`"),
        (b"{}", "empty objects"),
        (b"[1]", "JSON, each line a list"),
        (b"a,b,c", "plain text with commas (CSV?)"),
        (b"hello", "plain text"),
        (b'"messages": [', "plain text"),
        (b"{", "pieces of JSON (one object over several lines, or broken)"),
    ],
)
def test_what_was_seen_is_told_without_content(line: bytes, seen: str) -> None:
    assert describe([line]) == seen


def test_keys_that_may_be_content_are_not_told() -> None:
    assert "Miller" not in describe([b'{"Dr. Miller, 12 High Street": 1}'])


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (gzip.compress(b"hello", mtime=0), "gzip"),
        (b"PK\x03\x04rest", "zip"),
        (b"PAR1....", "Parquet"),
        (b"%PDF-1.7", "PDF"),
        ('{"messages": []}'.encode("utf-16"), "UTF-16"),
        ('{"messages": []}'.encode("utf-16-le"), "binary"),
        (random.Random(7).randbytes(4096), "binary"),
        (bytes([1, 2, 3]) * 100, "binary"),
    ],
)
def test_binary_files_are_told(head: bytes, word: str) -> None:
    assert word in binary_kind(head)


@pytest.mark.parametrize(
    "head", [CHAT, "Füße\r\n\tÄpfel".encode(), "日本語".encode() * 300, "ä".encode("latin-1"), b""]
)
def test_text_is_not_taken_for_binary(head: bytes) -> None:
    assert binary_kind(head) == ""
