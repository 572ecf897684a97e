"""Texts alone, with classes and with numbers: what they become, and why bad ones are refused."""

from __future__ import annotations

import orjson
import pytest

from feinschliff.formats.records import Record
from feinschliff.ingestion.findings import ADVICE
from feinschliff.ingestion.readers import READERS
from feinschliff.ingestion.readers.reader import BadRow
from feinschliff.ingestion.readers.texts import LABEL_CHARACTERS_MAX, LABELS_MAX
from feinschliff.ingestion.tokens import texts_of

GOOD: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "text": ("text", {"text": " a\nb "}, {"text": " a\nb "}),
    "label": ("classification", {"text": "a", "label": " b "}, {"text": "a", "label": "b"}),
    "number as label": ("classification", {"text": "a", "label": 3}, {"text": "a", "label": "3"}),
    "boolean as label": ("classification", {"text": "a", "label": False}, {"text": "a", "label": "false"}),
    "null beside labels": (
        "classification",
        {"text": "a", "label": None, "labels": ["x"]},
        {"text": "a", "labels": ["x"]},
    ),
    "several": ("classification", {"text": "a", "labels": ["y", "x", "y"]}, {"text": "a", "labels": ["x", "y"]}),
    "none of them": ("classification", {"text": "a", "labels": []}, {"text": "a", "labels": []}),
    "number": ("regression", {"text": "a", "value": -1.5}, {"text": "a", "value": -1.5}),
    "whole number": ("regression", {"text": "a", "value": 3}, {"text": "a", "value": 3.0}),
}
BAD: dict[str, tuple[str, bytes, list[tuple[str, str]]]] = {
    "broken": ("text", b'{"text": ', [("broken_json", "")]),
    "no text": ("text", b"{}", [("missing_key", "text")]),
    "empty text": ("text", b'{"text": " "}', [("empty_content", "text")]),
    "text a list": ("text", b'{"text": []}', [("wrong_type", "text")]),
    "more than text": ("text", b'{"text": "a", "id": 1}', [("unrecognized_key", "id")]),
    "no label": ("classification", b'{"text": "a"}', [("missing_key", "label")]),
    "label and labels": ("classification", b'{"text": "a", "label": "b", "labels": []}', [("label_twice", "labels")]),
    "empty label": ("classification", b'{"text": "a", "label": " "}', [("label_invalid", "label")]),
    "fraction as label": ("classification", b'{"text": "a", "label": 0.5}', [("wrong_type", "label")]),
    "labels a string": ("classification", b'{"text": "a", "labels": "b"}', [("wrong_type", "labels")]),
    "one of labels": ("classification", b'{"text": "a", "labels": ["b", []]}', [("wrong_type", "labels[1]")]),
    "long label": (
        "classification",
        orjson.dumps({"text": "a", "label": "b" * (LABEL_CHARACTERS_MAX + 1)}),
        [("label_invalid", "label")],
    ),
    "many labels": (
        "classification",
        orjson.dumps({"text": "a", "labels": [str(k) for k in range(LABELS_MAX + 1)]}),
        [("label_invalid", "labels")],
    ),
    "no value": ("regression", b'{"text": "a"}', [("missing_key", "value")]),
    "value a string": ("regression", b'{"text": "a", "value": "1"}', [("wrong_type", "value")]),
    "value a boolean": ("regression", b'{"text": "a", "value": true}', [("wrong_type", "value")]),
    "everything": (
        "regression",
        b'{"x": 1}',
        [("unrecognized_key", "x"), ("missing_key", "text"), ("missing_key", "value")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", GOOD)
def test_row_is_brought_into_its_normal_form(shape: str) -> None:
    name, row, expected = GOOD[shape]
    content = READERS[name]({}).read(orjson.dumps(row))
    assert content == expected
    record = Record.model_validate(content)
    assert orjson.loads(record.to_json_line()) == {**expected, "line": 0}


@pytest.mark.parametrize("shape", BAD)
def test_bad_row_is_refused_by_code_and_field(shape: str) -> None:
    name, line, expected = BAD[shape]
    with pytest.raises(BadRow) as caught:
        READERS[name]({}).read(line)
    assert [(problem.code, problem.field) for problem in caught.value.problems] == expected
    assert {code for code, _ in expected} <= set(ADVICE)


def test_columns_name_where_the_fields_are() -> None:
    columns = {"text": "sentence", "value": "stars"}
    assert READERS["regression"](columns).recognises(b'{"sentence": "a", "stars": 4}')
    assert READERS["regression"](columns).read(b'{"sentence": "a", "stars": 4}') == {"text": "a", "value": 4.0}


def test_a_texts_tokens_are_counted() -> None:
    assert list(texts_of({"text": "a b c", "label": "x"})) == ["a b c"]
