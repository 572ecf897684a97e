"""Files over gRPC: what a good one becomes, why a bad one is refused, and that a refused one leaves nothing."""

from __future__ import annotations

import gzip
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict

from feinschliff.artifacts.commit import read_manifest
from feinschliff.formats.records import Record
from feinschliff.kit.errors import AlreadyExists, Conflict, Exhausted, Invalid, NotFound, Refusal
from feinschliff.v1 import common_pb2
from feinschliff.v1 import ingestion_pb2 as pb
from tests.contract.ingestion.running import (
    Ingestion,
    chat_row,
    chat_rows,
    file_of,
    new_dataset,
    sha256,
    upload_parts,
)
from tests.support.waiting import eventually

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


def good_but(number: int, line: bytes) -> bytes:
    lines = chat_rows(60)
    lines[number - 1] = line
    return file_of(lines)


USER = {"role": "user", "content": "hi"}
BAD_FILES: dict[str, tuple[bytes, str, str, str]] = {
    "broken JSON": (good_but(5, b'{"messages": ['), "ROWS_INVALID", "lines[5]", "broken_json"),
    "wrong role": (
        good_but(6, orjson.dumps({"messages": [{"role": "usr", "content": "x"}]})),
        "ROWS_INVALID",
        "lines[6].messages[0].role",
        "unrecognized_role",
    ),
    "missing role": (
        good_but(7, orjson.dumps({"messages": [{"content": "x"}]})),
        "ROWS_INVALID",
        "lines[7].messages[0].role",
        "message_missing_key",
    ),
    "no assistant turn": (
        good_but(8, orjson.dumps({"messages": [USER]})),
        "ROWS_INVALID",
        "lines[8].messages",
        "example_missing_assistant_message",
    ),
    "empty content": (
        good_but(9, orjson.dumps({"messages": [USER, {"role": "assistant", "content": ""}]})),
        "ROWS_INVALID",
        "lines[9].messages[1].content",
        "empty_content",
    ),
    "over-long line": (
        good_but(10, b'{"messages": "' + b"x" * 30_000 + b'"}'),
        "ROWS_INVALID",
        "lines[10]",
        "line_too_long",
    ),
    "bad UTF-8": (good_but(11, b'{"messages": "\xff"}'), "ROWS_INVALID", "lines[11]", "bad_utf8"),
    "binary": (gzip.compress(random.Random(1).randbytes(100_000)), "FILE_BINARY", "", ""),
    "binary of megabytes": (random.Random(2).randbytes(3_000_000), "FILE_BINARY", "", ""),
    "0 bytes": (b"", "FILE_EMPTY", "", ""),
    "blank lines only": (b"\n\n \n", "FILE_EMPTY", "", ""),
    "nine rows": (file_of(chat_rows(9)), "TOO_FEW_ROWS", "", ""),
    "unknown format": (b'{"prompt": "a", "completion": "b"}\n' * 20, "FORMAT_UNKNOWN", "", ""),
    "a CSV table": (b"question,answer\n" + b"a,b\n" * 20, "FORMAT_UNKNOWN", "", ""),
    "two formats": (
        file_of([*chat_rows(5), *[b'{"instruction": "a", "output": "b"}'] * 20]),
        "FORMAT_AMBIGUOUS",
        "",
        "",
    ),
    "bad last row of many megabytes": (
        file_of([*(chat_row(n, tools=None) for n in range(90_000)), b"{broken"]),
        "ROWS_INVALID",
        "lines[90001]",
        "broken_json",
    ),
}


@pytest.mark.parametrize("shape", BAD_FILES)
@pytest.mark.parametrize("into", ["new dataset", "dataset with a version"])
def test_bad_file_is_refused_with_its_place_and_leaves_nothing(ingestion: Ingestion, shape: str, into: str) -> None:
    data, reason, field, code = BAD_FILES[shape]
    dataset = new_dataset()
    if into == "dataset with a version":
        ingestion.upload(file_of(chat_rows(50)), dataset)
    before = ingestion.kept()
    refusal = ingestion.refused(data, dataset, chunk_bytes=300_000)
    assert isinstance(refusal, Invalid)
    assert refusal.reason == reason
    assert refusal.advice
    if field:
        assert (refusal.fields[0].field, refusal.fields[0].reason) == (field, code)
        assert refusal.fields[0].description
    assert ingestion.kept() == before


HEADERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "huge claimed size": ({"size_bytes": 10**15}, "FILE_TOO_LARGE", "header.size_bytes"),
    "negative size": ({"size_bytes": -1}, "SIZE_INVALID", "header.size_bytes"),
    "wrong size": ({"size_bytes": 5}, "SIZE_MISMATCH", "header.size_bytes"),
    "wrong hash": ({"sha256": "0" * 64}, "HASH_MISMATCH", "header.sha256"),
    "no hash": ({"sha256": "xyz"}, "HASH_INVALID", "header.sha256"),
    "format not read": ({"format": pb.ROW_FORMAT_PREFERENCE}, "FORMAT_UNSUPPORTED", "header.format"),
    "shares above 1": ({"split": pb.SplitSpec(train_fraction=0.9, test_fraction=0.2)}, "SPLIT_INVALID", "split."),
    "one share of one half": ({"split": pb.SplitSpec(train_fraction=0.5)}, "SPLIT_INVALID", "split."),
    "long label": ({"labels": {"a": "x" * 513}}, "LABELS_INVALID", "labels"),
    "many labels": ({"labels": {str(n): "x" for n in range(65)}}, "LABELS_INVALID", "labels"),
    "long request id": ({"request_id": "r" * 65}, "TEXT_TOO_LONG", "header.request_id"),
    "unknown base": ({"base_model": "pypi:no-such-base"}, "BASE_NOT_INSTALLED", ""),
    "malformed base": ({"base_model": "nonsense"}, "BASE_URI_INVALID", ""),
}


@pytest.mark.parametrize("shape", HEADERS)
def test_bad_header_is_refused_by_field_and_leaves_nothing(ingestion: Ingestion, shape: str) -> None:
    header, reason, field = HEADERS[shape]
    before = ingestion.kept()
    refusal = ingestion.refused(file_of(chat_rows(50)), **header)
    assert refusal.reason == reason
    assert not field or refusal.fields[0].field.startswith(field)
    assert ingestion.kept() == before


def test_malformed_name_and_missing_dataset_are_refused(ingestion: Ingestion) -> None:
    refusal = ingestion.refused(b"", "projects/default/datasets/UPPER")
    assert (refusal.reason, refusal.fields[0].field) == ("NAME_MALFORMED", "header.parent")
    refusal = ingestion.refused(file_of(chat_rows(50)), create_dataset_if_missing=False)
    assert isinstance(refusal, NotFound)
    assert refusal.reason == "DATASET_NOT_FOUND"


def test_file_larger_than_allowed_is_refused_on_the_way(ingestion: Ingestion) -> None:
    before = ingestion.kept()
    row = chat_row(1)
    refusal = ingestion.refused(file_of([row] * (21_000_000 // len(row))), chunk_bytes=1_000_000)
    assert refusal.reason == "FILE_TOO_LARGE"
    assert ingestion.kept() == before


def test_parts_out_of_order_are_refused(ingestion: Ingestion) -> None:
    header = next(upload_parts(b"", new_dataset()))
    chunk = pb.UploadDatasetVersionRequest(chunk=b"x" * 10)
    large = pb.UploadDatasetVersionRequest(chunk=b"x" * (1024 * 1024 + 1))
    before = ingestion.kept()
    for parts, reason in (
        ([], "UPLOAD_OUT_OF_ORDER"),
        ([chunk], "UPLOAD_OUT_OF_ORDER"),
        ([header, chunk, header], "UPLOAD_OUT_OF_ORDER"),
        ([header, large], "CHUNK_TOO_LARGE"),
    ):
        with pytest.raises(Invalid) as caught:
            ingestion.call("UploadDatasetVersion", iter(parts))
        assert caught.value.reason == reason
    assert ingestion.kept() == before


def test_refusal_of_many_bad_rows_fits_and_says_what_is_left_out(ingestion: Ingestion) -> None:
    refusal = ingestion.refused(b'{"messages": [{"role": "user"}]}\n' * 5000)
    assert refusal.metadata["bad_rows"] == "5000"
    assert len(refusal.fields) >= 10
    assert int(refusal.metadata["violations_left_out"]) > 0


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


class Dripping:
    """A client whose upload stays open until it is told to go on."""

    def __init__(self, ingestion: Ingestion, dataset: str, first: bytes, rest: bytes = b"", **header: Any) -> None:
        self._go = threading.Event()
        self._channel = grpc.insecure_channel(ingestion.process.address)
        self._parts = (first, rest)
        upload = self._channel.stream_unary(
            "/feinschliff.v1.DatasetService/UploadDatasetVersion",
            request_serializer=pb.UploadDatasetVersionRequest.SerializeToString,
            response_deserializer=pb.DatasetVersion.FromString,
        )
        self.call: Any = upload.future(self._send(dataset, header), timeout=60)

    def _send(self, dataset: str, header: dict[str, Any]) -> Iterator[pb.UploadDatasetVersionRequest]:
        first, rest = self._parts
        yield from upload_parts(first, dataset, **header)
        self._go.wait(50)
        yield from list(upload_parts(rest, dataset))[1:]

    def go_on(self) -> pb.DatasetVersion:
        self._go.set()
        version: pb.DatasetVersion = self.call.result()
        self._channel.close()
        return version

    def cancel(self) -> None:
        self.call.cancel()
        self._go.set()
        self._channel.close()


def processing(ingestion: Ingestion, dataset: str) -> list[pb.DatasetVersion]:
    """The dataset's versions that are being uploaded; none where the dataset is not there yet."""
    try:
        listed = ingestion.call("ListDatasetVersions", pb.ListDatasetVersionsRequest(parent=dataset))
    except NotFound:
        return []
    return [one for one in listed.dataset_versions if one.state == pb.DatasetVersion.STATE_PROCESSING]


@pytest.mark.parametrize("size_bytes", [3_000, 15_000_000])
def test_client_that_leaves_leaves_nothing(ingestion: Ingestion, size_bytes: int) -> None:
    before, dataset = ingestion.kept(), new_dataset()
    rows = file_of(chat_rows(40))
    client = Dripping(ingestion, dataset, rows * (size_bytes // len(rows) + 1))
    eventually(lambda: processing(ingestion, dataset), 20, "the upload")
    client.cancel()
    eventually(lambda: ingestion.kept() == before, 20, "a clean store")


def test_clients_that_leave_at_any_moment_leave_nothing(ingestion: Ingestion) -> None:
    before, rng = ingestion.kept(), random.Random(11)
    data = file_of(chat_rows(60))
    for _ in range(25):
        client = Dripping(ingestion, new_dataset(), data)
        threading.Event().wait(rng.random() * 0.05)
        client.cancel()
    uploads_in_flight = "feinschliff_ingestion_uploads_in_flight 0.0"
    eventually(lambda: uploads_in_flight in ingestion.metrics(), 20, "the end of all uploads")
    eventually(lambda: ingestion.kept() == before, 20, "a clean store")


def test_upload_can_be_watched_to_its_end(ingestion: Ingestion) -> None:
    dataset = new_dataset()
    client = Dripping(ingestion, dataset, file_of(chat_rows(100)), file_of([chat_row(7)]), size_bytes=None)
    eventually(lambda: processing(ingestion, dataset), 20, "the upload")
    request = pb.WatchDatasetVersionRequest(name=f"{dataset}/versions/1")
    with ingestion.stub() as stub, ThreadPoolExecutor(1) as pool:
        watching = stub.WatchDatasetVersion(request, timeout=30)
        first = next(watching)
        assert first.dataset_version.state == pb.DatasetVersion.STATE_PROCESSING
        rest = pool.submit(list, watching)
        done = client.go_on()
        seen = rest.result(30)
    assert seen[-1].dataset_version == done
    cursors = [first.cursor, *(one.cursor for one in seen)]
    assert cursors == sorted(set(cursors))
    again = ingestion.stream("WatchDatasetVersion", pb.WatchDatasetVersionRequest(name=done.name, cursor=first.cursor))
    assert [one.dataset_version for one in again] == [done]
    assert (
        ingestion.stream("WatchDatasetVersion", pb.WatchDatasetVersionRequest(name=done.name, cursor=cursors[-1])) == []
    )


def test_same_request_at_the_same_time_is_told_to_wait(ingestion: Ingestion) -> None:
    dataset, data = new_dataset(), file_of(chat_rows(60))
    client = Dripping(ingestion, dataset, data, request_id="r")
    eventually(lambda: processing(ingestion, dataset), 20, "the upload")
    refusal = ingestion.refused(data, dataset, request_id="r")
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "UPLOAD_RUNNING"
    assert refusal.retry_after_seconds
    done = client.go_on()
    assert ingestion.upload(data, dataset, request_id="r") == done


def test_more_uploads_than_allowed_are_told_to_come_again(ingestion: Ingestion) -> None:
    data = file_of(chat_rows(60))
    datasets = [new_dataset() for _ in range(4)]
    clients = [Dripping(ingestion, dataset, data) for dataset in datasets]
    for dataset in datasets:
        eventually(lambda dataset=dataset: processing(ingestion, dataset), 20, "the upload")  # type: ignore[misc]
    refusal = ingestion.refused(data)
    assert isinstance(refusal, Exhausted)
    assert (refusal.reason, refusal.retry_after_seconds) == ("UPLOADS_BUSY", 2)
    for client in clients:
        assert client.go_on().state == READY
    assert ingestion.upload(data).state == READY


def test_uploads_at_once_into_one_dataset_get_a_number_each(ingestion: Ingestion) -> None:
    dataset = new_dataset()
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda n: ingestion.upload(file_of(chat_rows(50 + n)), dataset), range(4)))
    assert sorted(version.name for version in versions) == [f"{dataset}/versions/{number}" for number in (1, 2, 3, 4)]
    assert all(len(ingestion.rows(version.name)) == version.rows for version in versions)


def test_rows_of_a_version_in_the_making_cannot_be_read(ingestion: Ingestion) -> None:
    dataset = new_dataset()
    client = Dripping(ingestion, dataset, file_of(chat_rows(60)))
    eventually(lambda: processing(ingestion, dataset), 20, "the upload")
    for method, request in (
        ("ReadRows", pb.ReadRowsRequest(name=f"{dataset}/versions/1")),
        ("ReadSource", pb.ReadSourceRequest(name=f"{dataset}/versions/1")),
    ):
        with pytest.raises(Refusal) as caught:
            ingestion.stream(method, request)
        assert caught.value.reason == "VERSION_NOT_READY"
    with pytest.raises(Refusal) as caught:
        ingestion.call("DeleteDataset", pb.DeleteDatasetRequest(name=dataset))
    assert caught.value.reason == "DATASET_BUSY"
    client.go_on()


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
    assert len(formats) == 3
    for one in formats:
        line = orjson.dumps(MessageToDict(one.example))
        assert ingestion.upload(file_of([line] * 12), split=ALL_TRAIN).format == one.format


def test_methods_that_are_not_served_say_so(ingestion: Ingestion) -> None:
    with pytest.raises(Refusal) as caught:
        ingestion.call("GetAudit", pb.GetAuditRequest(name=f"{new_dataset()}/versions/1/audits/a"))
    assert caught.value.reason == "METHOD_UNSERVED"
