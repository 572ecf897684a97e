"""Programs get whole JSON documents with numbers in them, people get reasons, lines and advice."""

from __future__ import annotations

import json

import pytest

from feinschliff.cli import errors
from feinschliff.cli.output import Output, plain, seconds
from feinschliff.cli.words import findings, state
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.v1 import common_pb2, ingestion_pb2, registry_pb2

VERSION = ingestion_pb2.DatasetVersion(
    name="projects/p/datasets/d/versions/1",
    rows=90,
    rows_by_split={"train": 80, "validation": 10},
    source=common_pb2.ArtifactRef(size_bytes=2**53 + 2),
    findings=[common_pb2.Finding(count=3, rows=[1, 2, 2**40])],
)


def test_whole_numbers_are_numbers_at_any_depth() -> None:
    made = plain(VERSION)
    assert made["rows"] == 90
    assert made["rows_by_split"] == {"train": 80, "validation": 10}
    assert made["source"]["size_bytes"] == 2**53 + 2
    assert made["findings"][0] == {"count": 3, "rows": [1, 2, 2**40]}


def test_free_objects_and_other_numbers_stay_as_they_are() -> None:
    row = ingestion_pb2.Row(line=4)
    row.data.update({"a": "17", "b": [1.5, True, None]})
    assert plain(row) == {"line": 4, "data": {"a": "17", "b": [1.5, True, None]}}
    version = registry_pb2.ModelVersion(metrics={"loss": 0.5}, stop_token_ids=[2], golden_probes=[])
    assert plain(version) == {"metrics": {"loss": 0.5}, "stop_token_ids": [2]}


def test_json_is_one_document_and_notes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.note("not for programs")
    output.text("nor this")
    output.show({"versions": [VERSION]}, lambda: "for people")
    heard = capsys.readouterr()
    assert json.loads(heard.out)["versions"][0]["rows"] == 90
    assert heard.err == ""


def test_text_of_others_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Output().text("[bold]not markup[/bold] :smile:")
    assert capsys.readouterr().out == "[bold]not markup[/bold] :smile:\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0s"), (8.34, "8.3s"), (59.94, "59.9s"), (61, "1m01s"), (3599.6, "1h00m"), (7500, "2h05m")],
)
def test_durations_are_read_at_a_glance(value: float, text: str) -> None:
    assert seconds(value) == text


def refused() -> Invalid:
    fields = [FieldViolation(f"lines[{line}].messages", "there is no answer", "no_answer") for line in range(1, 31)]
    return Invalid("ROWS_INVALID", "30 of 40 rows cannot be used.", fields=fields, advice=["Add answers."], rows=30)


def test_a_refusal_is_told_with_its_lines_and_advice(capsys: pytest.CaptureFixture[str]) -> None:
    errors.show(refused(), in_json=False)
    heard = capsys.readouterr()
    lines = heard.err.splitlines()
    assert heard.out == ""
    assert lines[0] == "ROWS_INVALID: 30 of 40 rows cannot be used."
    assert lines[1] == "  lines[1].messages: there is no answer (no_answer)"
    assert lines[-2] == "  ... and 10 more"
    assert lines[-1] == "  try: Add answers."


def test_a_refusal_in_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    errors.show(refused(), in_json=True)
    told = json.loads(capsys.readouterr().err)["error"]
    assert (told["reason"], told["code"], told["metadata"]) == ("ROWS_INVALID", "INVALID_ARGUMENT", {"rows": "30"})
    assert len(told["fields"]) == 30


def test_a_state_of_a_newer_service_has_a_name_too() -> None:
    assert state(ingestion_pb2.DatasetVersion.State.Name, ingestion_pb2.DatasetVersion.STATE_READY) == "READY"
    assert state(ingestion_pb2.DatasetVersion.State.Name, 99) == "STATE 99"  # type: ignore[arg-type]


def test_a_finding_names_its_lines_and_what_to_do() -> None:
    finding = common_pb2.Finding(
        severity=common_pb2.SEVERITY_WARNING, code="FEW_ROWS", count=2, rows=[3, 9], message="m", advice="more"
    )
    assert [line.plain for line in findings([finding])] == ["warning: FEW_ROWS x2: m (lines 3, 9)", "  try: more"]
