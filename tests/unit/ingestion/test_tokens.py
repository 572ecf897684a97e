"""Tokens: exact for usual files, a fair sample of large ones."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import pytest

from feinschliff.ingestion.readers.reader import Content
from feinschliff.ingestion.tokens import TokenCounter, Tokens, texts_of


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def row(number: int, length: int) -> tuple[Content, bytes, int]:
    text = "word " * length
    content: Content = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]}
    return content, hashlib.sha256(str(number).encode()).digest(), len(text)


def counted(rows: list[tuple[Content, bytes, int]], **limits: int) -> Tokens:
    counter = TokenCounter(words, **limits)
    for content, digest, size_bytes in rows:
        counter.add(content, digest, size_bytes)
    return counter.result()


def test_usual_file_is_counted_exactly() -> None:
    rows = [row(number, number % 10) for number in range(5_000)]
    assert counted(rows) == (sum(number % 10 + 1 for number in range(5_000)), False)


def test_file_without_rows_has_no_tokens() -> None:
    assert counted([]) == (0, False)


def test_large_file_whose_sample_is_empty_is_estimated_from_its_first_rows() -> None:
    rows = [row(number, 9) for number in range(30)]
    assert counted(rows, exact_rows=10, sample_every=2**40) == (300, True)


def test_large_file_is_estimated_and_says_so() -> None:
    rng = random.Random(5)
    rows = [row(number, rng.randrange(5, 60)) for number in range(20_000)]
    truth = counted(rows, exact_rows=20_000)
    guess = counted(rows, exact_rows=500, sample_every=16)
    assert not truth.estimated
    assert guess.estimated
    assert guess.total == pytest.approx(truth.total, rel=0.02)


def test_sorted_file_is_estimated_as_well() -> None:
    rows = sorted((row(number, number % 60) for number in range(20_000)), key=lambda one: one[2])
    truth = counted(rows, exact_rows=20_000).total
    assert counted(rows, exact_rows=500, sample_every=16).total == pytest.approx(truth, rel=0.02)


def test_everything_said_is_counted() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "track", "arguments": '{"order": 7}'}}
    content: Content = {
        "messages": [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "here"},
        ]
    }
    assert list(texts_of(content)) == ["Where?", 'track{"order": 7}', "here"]
