"""Texts: alone for pre-training, with a class or several, or with a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from feinschliff.ingestion.readers.reader import (
    Content,
    Description,
    Problems,
    json_type,
    parse_object,
    refuse_unknown_keys,
    sniff_object,
)

LABEL_CHARACTERS_MAX = 256
LABELS_MAX = 1000


class TextReader:
    """`{"text"}` and nothing else; rows that begin with a dialogue's marker belong to another reader."""

    name: ClassVar[str] = "text"
    family: ClassVar[str] = "text"
    description: ClassVar[Description] = Description(
        summary="One plain text a row, for continued pre-training: the model learns every token of it.",
        required_fields=("text",),
        optional_fields=(),
        example={"text": "The Elbe rises in the Giant Mountains and flows into the North Sea."},
    )

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns

    def recognises(self, line: bytes) -> bool:
        row = sniff_object(line, self._columns)
        return row is not None and set(row) == {"text"}

    def read(self, line: bytes) -> Content:
        row, problems = parse_object(line, self._columns), Problems()
        refuse_unknown_keys(row, frozenset({"text"}), problems)
        text = _text(row, problems)
        problems.raise_if_any()
        return {"text": text}


class ClassificationReader:
    """`{"text", "label"}` or `{"text", "labels": [...]}`; whole numbers and booleans are taken by their JSON text."""

    name: ClassVar[str] = "classification"
    family: ClassVar[str] = "classification"
    description: ClassVar[Description] = Description(
        summary="One text a row with its class, or in `labels` with any number of classes.",
        required_fields=("text",),
        optional_fields=("label", "labels"),
        example={"text": "Where is my parcel?", "label": "track_order"},
    )

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns

    def recognises(self, line: bytes) -> bool:
        row = sniff_object(line, self._columns)
        return row is not None and "text" in row and ("label" in row or "labels" in row)

    def read(self, line: bytes) -> Content:
        row, problems = parse_object(line, self._columns), Problems()
        refuse_unknown_keys(row, frozenset({"text", "label", "labels"}), problems)
        content: Content = {"text": _text(row, problems)}
        label, labels = row.get("label"), row.get("labels")
        if label is not None and labels is not None:
            problems.add("label_twice", "labels", "a row has `label` or `labels`, not both")
        elif labels is not None:
            content["labels"] = _labels(labels, problems)
        elif label is not None:
            content["label"] = _label(label, "label", problems)
        else:
            problems.add("missing_key", "label", "the row has no `label`")
        problems.raise_if_any()
        return content


class RegressionReader:
    """`{"text", "value"}`."""

    name: ClassVar[str] = "regression"
    family: ClassVar[str] = "regression"
    description: ClassVar[Description] = Description(
        summary="One text a row with the number that the model learns to give it.",
        required_fields=("text", "value"),
        optional_fields=(),
        example={"text": "Arrived broken, never again.", "value": 1.5},
    )

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns

    def recognises(self, line: bytes) -> bool:
        row = sniff_object(line, self._columns)
        return row is not None and "text" in row and "value" in row

    def read(self, line: bytes) -> Content:
        row, problems = parse_object(line, self._columns), Problems()
        refuse_unknown_keys(row, frozenset({"text", "value"}), problems)
        content: Content = {"text": _text(row, problems), "value": _number(row, problems)}
        problems.raise_if_any()
        return content


def _text(row: Mapping[str, object], problems: Problems) -> str:
    text = row.get("text")
    if text is None:
        problems.add("missing_key", "text", "the row has no `text`")
    elif not isinstance(text, str):
        problems.add("wrong_type", "text", f"{json_type(text)} where a string belongs")
    elif not text.strip():
        problems.add("empty_content", "text", "`text` says nothing")
    else:
        return text
    return ""


def _number(row: Mapping[str, object], problems: Problems) -> float:
    value = row.get("value")
    if value is None:
        problems.add("missing_key", "value", "the row has no `value`")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        problems.add("wrong_type", "value", f"{json_type(value)} where a number belongs")
    elif not math.isfinite(number := float(value)):
        problems.add("wrong_type", "value", "the number is too large")
    else:
        return number
    return 0.0


def _labels(labels: object, problems: Problems) -> list[str]:
    """Each class once, sorted: their order says nothing, so equal rows stay equal."""
    if not isinstance(labels, list):
        problems.add("wrong_type", "labels", f"{json_type(labels)} where a list belongs")
        return []
    if len(labels) > LABELS_MAX:
        problems.add("label_invalid", "labels", f"{len(labels)} classes; a row has at most {LABELS_MAX}")
        return []
    return sorted({_label(label, f"labels[{place}]", problems) for place, label in enumerate(labels)})


def _label(label: object, at: str, problems: Problems) -> str:
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, int):
        return str(label)
    if not isinstance(label, str):
        problems.add("wrong_type", at, f"{json_type(label)} where a string or a whole number belongs")
        return ""
    label = label.strip()
    if not 1 <= len(label) <= LABEL_CHARACTERS_MAX:
        limits = f"1 to {LABEL_CHARACTERS_MAX}"
        problems.add("label_invalid", at, f"the class has {len(label)} characters where {limits} belong")
    return label
