"""Files over gRPC: what a good one becomes, why a bad one is refused, and that a refused one leaves nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict

from feinschliff.artifacts.commit import read_manifest
from feinschliff.formats.records import Record
from feinschliff.ingestion.readers import READERS
from feinschliff.kit.errors import AlreadyExists, Conflict, Invalid, NotFound, Refusal
from feinschliff.v1 import common_pb2
from feinschliff.v1 import ingestion_pb2 as pb
from tests.contract.ingestion.running import (
    Ingestion,
    chat_row,
    chat_rows,
    file_of,
    new_dataset,
    sha256,
)

READY = pb.DatasetVersion.STATE_READY
ALL_TRAIN = pb.SplitSpec(train_fraction=1)


def test_upload_becomes_a_ready_version(ingestion: Ingestion, tiny_model: object) -> None:
    data, dataset = file_of(chat_rows(200)), new_dataset()
    version = ingestion.upload(data, dataset, filename="a.jsonl", labels={"team": "x"}, annotations={"note": "y"})
    assert (version.name, version.state) == (f"{dataset}/versions/1", READY)
    assert (version.format, version.rows, version.filename) == (pb.ROW_FORMAT_CHAT, 200, "a.jsonl")
    assert sum(version.rows_by_split.values()) == 200
    assert 5 <= version.rows_by_split["validation"] <= 40
    assert set(version.artifacts) == {"train", "validation"}
    assert (version.source.sha256, version.source.size_bytes) == (sha256(data), len(data))
    assert version.tokens > 400
    assert version.tokenizer == f"file:{tiny_model}"
    assert (version.labels["team"], version.annotations["note"]) == ("x", "y")
    assert (version.split.train_fraction, version.split.validation_fraction) == (0.9, 0.1)
    assert not version.findings
    assert ingestion.call("GetDatasetVersion", pb.GetDatasetVersionRequest(name=version.name)) == version
    made = ingestion.call("GetDataset", pb.GetDatasetRequest(name=dataset))
    assert (made.latest_version, made.version_count) == (version.name, 1)


def test_objects_are_what_the_manifest_and_the_version_say(ingestion: Ingestion) -> None:
    version = ingestion.upload(file_of(chat_rows(80)))
    store = ingestion.server.store(ingestion.bucket)
    manifest = read_manifest(store, version.name)
    assert manifest is not None
    assert (manifest.kind, manifest.digest) == ("dataset", f"sha256:{version.sha256}")
    records: list[Record] = []
    for split, artifact in version.artifacts.items():
        key = artifact.uri.removeprefix(f"s3://{ingestion.bucket}/")
        text = store.get_bytes(key)
        assert (sha256(text), len(text)) == (artifact.sha256, artifact.size_bytes)
        assert manifest.files[f"{split}.jsonl"].sha256 == artifact.sha256
        records += [Record.from_json_line(line) for line in text.splitlines()]
    assert sorted(record.line for record in records) == list(range(1, 81))


@pytest.mark.parametrize(
    ("row", "row_format"),
    [
        ({"text": "Text {}."}, pb.ROW_FORMAT_TEXT),
        ({"text": "Text {}.", "label": "a"}, pb.ROW_FORMAT_CLASSIFICATION),
        ({"text": "Text {}.", "labels": ["a", "b"]}, pb.ROW_FORMAT_CLASSIFICATION),
        ({"text": "Text {}.", "value": 0.5}, pb.ROW_FORMAT_REGRESSION),
    ],
)
@pytest.mark.parametrize("said", [False, True], ids=["recognised", "said"])
def test_texts_and_what_is_to_be_said_of_them_come_back(
    ingestion: Ingestion, row: dict[str, object], row_format: pb.RowFormat.ValueType, said: bool
) -> None:
    lines = [orjson.dumps({**row, "text": f"Text {number}."}) for number in range(60)]
    version = ingestion.upload(file_of(lines), format=row_format if said else pb.ROW_FORMAT_AUTO)

    assert (version.state, version.format, version.rows) == (READY, row_format, 60)
    assert version.tokens > 60
    assert [as_json(one) for one in ingestion.rows(version.name)] == [orjson.loads(line) for line in lines]
    texts = ingestion.server.store(ingestion.bucket).get_bytes(f"{version.name}/train.jsonl")
    assert all(Record.from_json_line(line).text for line in texts.splitlines())


def test_rows_and_source_come_back_as_they_went_in(ingestion: Ingestion) -> None:
    lines = chat_rows(120)
    version = ingestion.upload(file_of(lines))
    rows = ingestion.rows(version.name)
    assert [row.line for row in rows] == list(range(1, 121))
    assert [as_json(row) for row in rows] == [orjson.loads(line) for line in lines]
    chunks = ingestion.stream("ReadSource", pb.ReadSourceRequest(name=version.name))
    assert b"".join(chunk.chunk for chunk in chunks) == file_of(lines)


def as_json(row: pb.Row) -> object:
    return MessageToDict(row.data)


def test_parts_of_the_rows_can_be_read(ingestion: Ingestion) -> None:
    version = ingestion.upload(file_of(chat_rows(100)), split=pb.SplitSpec(train_fraction=0.5, test_fraction=0.5))
    test_rows = ingestion.rows(version.name, split=common_pb2.SPLIT_TEST)
    assert len(test_rows) == version.rows_by_split["test"]
    assert {row.split for row in test_rows} == {common_pb2.SPLIT_TEST}
    assert ingestion.rows(version.name, split=common_pb2.SPLIT_TEST, start=3, limit=5) == test_rows[3:8]
    assert [row.line for row in ingestion.rows(version.name, start=97)] == [98, 99, 100]
    assert ingestion.rows(version.name, start=100) == []
    assert ingestion.rows(version.name, split=common_pb2.SPLIT_VALIDATION) == []
    part = ingestion.stream("ReadSource", pb.ReadSourceRequest(name=version.name, offset_bytes=10, limit_bytes=7))
    assert [(one.offset_bytes, one.chunk) for one in part] == [(10, file_of(chat_rows(100))[10:17])]
    assert ingestion.stream("ReadSource", pb.ReadSourceRequest(name=version.name, offset_bytes=10**9)) == []


def test_sample_is_repeatable_and_without_repeats(ingestion: Ingestion) -> None:
    version = ingestion.upload(file_of(chat_rows(60)))

    def sample(**request: Any) -> list[int]:
        answer = ingestion.call("SampleRows", pb.SampleRowsRequest(name=version.name, **request))
        return [row.line for row in answer.rows]

    assert len(set(sample(count=20, seed=4))) == 20
    assert sample(count=20, seed=4) == sample(count=20, seed=4) != sample(count=20, seed=5)
    assert sorted(sample(count=1000)) == list(range(1, 61))
    assert len(sample()) == 10


@pytest.mark.parametrize("chunk_bytes", [1000, 65_536, 1024 * 1024])
def test_content_hash_does_not_depend_on_chunks(ingestion: Ingestion, chunk_bytes: int) -> None:
    data = file_of(chat_rows(500))
    whole = ingestion.upload(data)
    cut = ingestion.upload(data, chunk_bytes=chunk_bytes)
    assert (cut.sha256, cut.source.sha256, cut.tokens) == (whole.sha256, whole.source.sha256, whole.tokens)


def test_instruction_pairs_and_dialogues_become_conversations(ingestion: Ingestion) -> None:
    pairs = [orjson.dumps({"instruction": f"Do {n}", "input": "x", "output": f"Done {n}"}) for n in range(60)]
    dialogues = [b"###Human: Hello %d ###Assistant: Hi ###Human: Bye ###Assistant: So long" % n for n in range(60)]
    first, second = ingestion.upload(file_of(pairs)), ingestion.upload(file_of(dialogues))
    assert {first.format, second.format} == {pb.ROW_FORMAT_INSTRUCTION}
    assert as_json(ingestion.rows(first.name, limit=1)[0]) == {
        "messages": [{"role": "user", "content": "Do 0\n\nx"}, {"role": "assistant", "content": "Done 0"}]
    }
    roles = ["user", "assistant", "user", "assistant"]
    texts = ["Hello 0", "Hi", "Bye", "So long"]
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    assert as_json(ingestion.rows(second.name, limit=1)[0]) == {"messages": turns}


def test_columns_say_where_the_fields_are(ingestion: Ingestion) -> None:
    lines = [orjson.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(60)]
    version = ingestion.upload(file_of(lines), columns={"instruction": "question", "output": "answer"})
    assert version.rows == 60
    refusal = ingestion.refused(file_of(lines), columns={"colour": "question"})
    assert (refusal.reason, refusal.fields[0].field) == ("COLUMNS_INVALID", "header.columns")


def test_versions_count_from_one_and_never_change(ingestion: Ingestion) -> None:
    dataset = new_dataset()
    names = [ingestion.upload(file_of(chat_rows(50 + number)), dataset).name for number in range(3)]
    assert names == [f"{dataset}/versions/{number}" for number in (1, 2, 3)]
    listed = ingestion.call("ListDatasetVersions", pb.ListDatasetVersionsRequest(parent=dataset))
    assert [one.name for one in listed.dataset_versions] == names[::-1]
    assert len(ingestion.rows(names[0])) == 50
    wide = pb.ListDatasetVersionsRequest(parent="projects/default/datasets/-", filter="state = READY", page_size=1000)
    assert set(names) <= {one.name for one in ingestion.call("ListDatasetVersions", wide).dataset_versions}


def test_refused_upload_uses_up_no_number(ingestion: Ingestion) -> None:
    dataset = new_dataset()
    ingestion.refused(b"{broken\n" * 20, dataset)
    assert ingestion.upload(file_of(chat_rows(50)), dataset).name.endswith("/versions/1")
    ingestion.refused(b"{broken\n" * 20, dataset)
    assert ingestion.upload(file_of(chat_rows(50)), dataset).name.endswith("/versions/2")


def test_few_rows_and_duplicates_are_findings_of_the_version(ingestion: Ingestion) -> None:
    version = ingestion.upload(file_of([*chat_rows(15), *chat_rows(2)]), split=ALL_TRAIN)
    found = {finding.code: finding for finding in version.findings}
    assert set(found) == {"FEW_ROWS", "DUPLICATE_ROWS"}
    assert found["FEW_ROWS"].severity == common_pb2.SEVERITY_WARNING
    assert (found["DUPLICATE_ROWS"].count, list(found["DUPLICATE_ROWS"].rows)) == (2, [16, 17])
    assert all(finding.advice and finding.message for finding in version.findings)


def test_bad_rows_are_left_out_on_demand_and_all_named(ingestion: Ingestion) -> None:
    lines = chat_rows(60)
    lines[7], lines[30] = b"{broken", chat_row(1, extra=True)
    version = ingestion.upload(file_of(lines), on_bad_row=pb.ON_BAD_ROW_SKIP)
    found = {(finding.code, finding.field): list(finding.rows) for finding in version.findings}
    assert found == {("broken_json", ""): [8], ("unrecognized_key", "extra"): [31]}
    assert version.rows == 58


def test_trial_answers_everything_and_stores_nothing(ingestion: Ingestion) -> None:
    before = ingestion.kept()
    good = ingestion.upload(file_of(chat_rows(60)), validate_only=True)
    lines = chat_rows(300)
    for number in range(0, 300, 2):
        lines[number] = b'{"messages": [{"role": "usr", "content": "x"}]}'
    bad = ingestion.upload(file_of(lines), validate_only=True)
    binary = ingestion.upload(b"\x00" * 10_000, validate_only=True)
    assert (good.name, good.state, good.rows) == ("", READY, 60)
    assert good.tokens > 0
    assert (bad.name, bad.state, bad.failure.reason) == ("", pb.DatasetVersion.STATE_FAILED, "ROWS_INVALID")
    assert [
        (one.code, one.count, list(one.rows)) for one in bad.findings if one.severity == common_pb2.SEVERITY_ERROR
    ] == [("unrecognized_role", 150, list(range(1, 301, 2)))]
    assert binary.failure.reason == "FILE_BINARY"
    assert ingestion.kept() == before


def test_same_request_gives_the_same_version(ingestion: Ingestion) -> None:
    dataset, data = new_dataset(), file_of(chat_rows(60))
    first = ingestion.upload(data, dataset, request_id="once")
    kept = ingestion.kept()
    assert ingestion.upload(data, dataset, request_id="once", chunk_bytes=777) == first
    assert ingestion.upload(data, dataset, request_id="once", size_bytes=len(data)) == first
    assert ingestion.kept() == kept
    for other in ({"data": file_of(chat_rows(61))}, {"data": data, "labels": {"a": "b"}}):
        refusal = ingestion.refused(dataset=dataset, request_id="once", **other)
        assert refusal.reason == "REQUEST_ID_REUSED"
    assert ingestion.upload(data, dataset, request_id="twice").name == f"{dataset}/versions/2"
    assert ingestion.upload(data, dataset).sha256 == first.sha256


def test_dataset_is_made_changed_and_removed_with_everything(ingestion: Ingestion) -> None:
    before, name = ingestion.kept(), new_dataset()
    wanted = pb.Dataset(display_name="Support", labels={"team": "a"})
    create = pb.CreateDatasetRequest(parent="projects/default", dataset_id=name.rsplit("/", 1)[1], dataset=wanted)
    made = ingestion.call("CreateDataset", create)
    assert (made.name, made.display_name, made.etag) == (name, "Support", "1")
    with pytest.raises(AlreadyExists) as exists:
        ingestion.call("CreateDataset", create)
    assert exists.value.reason == "DATASET_EXISTS"
    patch = pb.Dataset(name=name, description="text", labels={"ignored": "x"}, etag=made.etag)
    update = pb.UpdateDatasetRequest(dataset=patch, update_mask=FieldMask(paths=["description"]))
    changed = ingestion.call("UpdateDataset", update)
    assert (changed.description, changed.display_name, dict(changed.labels)) == ("text", "Support", {"team": "a"})
    with pytest.raises(Conflict) as conflict:
        ingestion.call("DeleteDataset", pb.DeleteDatasetRequest(name=name, etag=made.etag))
    assert conflict.value.reason == "ETAG_MISMATCH"
    ingestion.upload(file_of(chat_rows(60)), name)
    ingestion.call("DeleteDataset", pb.DeleteDatasetRequest(name=name, etag=changed.etag))
    assert ingestion.kept() == before
    with pytest.raises(NotFound):
        ingestion.call("GetDataset", pb.GetDatasetRequest(name=name))
    assert ingestion.upload(file_of(chat_rows(60)), name).name == f"{name}/versions/1"


def test_create_is_repeated_by_its_request_id(ingestion: Ingestion) -> None:
    request = pb.CreateDatasetRequest(parent="projects/p2", dataset=pb.Dataset(description="a"), request_id="x")
    made = ingestion.call("CreateDataset", request)
    assert ingestion.call("CreateDataset", request) == made
    request.dataset.description = "b"
    with pytest.raises(Invalid) as caught:
        ingestion.call("CreateDataset", request)
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_formats_are_listed_with_examples_that_can_be_uploaded(ingestion: Ingestion) -> None:
    formats = ingestion.call("ListFormats", pb.ListFormatsRequest(parent="projects/default")).formats
    assert len(formats) == len(READERS)
    for one in formats:
        line = orjson.dumps(MessageToDict(one.example))
        assert ingestion.upload(file_of([line] * 12), split=ALL_TRAIN).format == one.format


def test_methods_that_are_not_served_say_so(ingestion: Ingestion) -> None:
    with pytest.raises(Refusal) as caught:
        ingestion.call("GetAudit", pb.GetAuditRequest(name=f"{new_dataset()}/versions/1/audits/a"))
    assert caught.value.reason == "METHOD_UNSERVED"
