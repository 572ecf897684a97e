"""Bad files and bad headers over gRPC: refused with reason, place and advice, and nothing of them stays."""

from __future__ import annotations

import gzip
import random
from typing import Any

import orjson
import pytest

from feinschliff.kit.errors import Invalid, NotFound
from feinschliff.v1 import ingestion_pb2 as pb
from tests.contract.ingestion.running import Ingestion, chat_row, chat_rows, file_of, new_dataset, upload_parts


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
