"""Rows in their normal form: what they may hold, and by what they are told apart."""

from __future__ import annotations

import hashlib

import pytest
from pydantic import ValidationError

from feinschliff.formats.records import Message, Record

TALK = [Message(role="user", content="a"), Message(role="assistant", content="b")]


def test_the_digest_of_a_conversation_stays_what_it_was() -> None:
    plain = b'{"messages":[{"content":"a","role":"user"},{"content":"b","role":"assistant"}]}'
    assert Record(messages=TALK, line=7).content_digest() == hashlib.sha256(plain).digest()
    assert Record(messages=TALK, line=7).to_json_line() == (
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"line":7}\n'
    )


def test_the_digest_of_a_text_is_that_of_its_content() -> None:
    row = Record(text="a", labels=["x", "y"], line=3)
    assert row.content_digest() == hashlib.sha256(b'{"labels":["x","y"],"text":"a"}').digest()
    assert Record.from_json_line(row.to_json_line()) == row


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"messages": TALK, "text": "a"},
        {"messages": TALK, "label": "a"},
        {"text": ""},
        {"text": "a", "label": "b", "value": 1.0},
        {"text": "a", "tools": [{"type": "function"}]},
        {"label": "b"},
        {"text": "a", "value": float("nan")},
    ],
)
def test_a_row_that_is_neither_is_none(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Record.model_validate(values)


def test_a_text_may_have_no_class_at_all() -> None:
    assert Record(text="a", labels=[]).labels == []
