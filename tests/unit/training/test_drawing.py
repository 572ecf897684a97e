"""Rows come from ingestion whole where they are few, by chance where they are many, and never beyond one message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from feinschliff.formats.records import Message, Record
from feinschliff.training.clients import SAMPLE_BYTES_MAX, read_split, record_of
from feinschliff.v1 import common_pb2
from feinschliff.v1 import ingestion_pb2 as pb

NAME = "projects/default/datasets/routing/versions/1"
ROW = {
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 1},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"minimum": 2, "step": 0.5}}}],
}


def row(line: int) -> pb.Row:
    return pb.Row(line=line, data=ParseDict(ROW, Struct()))


class Stub:
    """Ingestion's door with rows without end."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def ReadRows(self, request: pb.ReadRowsRequest, timeout: float) -> Iterator[pb.ReadRowsResponse]:
        self.asked.append(request)
        yield pb.ReadRowsResponse(rows=[row(1), row(2)])
        yield pb.ReadRowsResponse(rows=[row(3)])

    def SampleRows(self, request: pb.SampleRowsRequest) -> pb.SampleRowsResponse:
        self.asked.append(request)
        return pb.SampleRowsResponse(rows=[row(7)] * request.count)


def drawn(wanted: int, *, rows: int, row_bytes: float = 100.0) -> tuple[list[Record], Any]:
    stub: Any = Stub()
    records = list(read_split(stub, NAME, "train", wanted, rows=rows, row_bytes=row_bytes))
    return records, stub.asked[0]


def test_few_rows_come_whole_and_in_order() -> None:
    records, asked = drawn(3, rows=3)
    assert [record.line for record in records] == [1, 2, 3]
    assert asked == pb.ReadRowsRequest(name=NAME, split=common_pb2.SPLIT_TRAIN)


@pytest.mark.parametrize(
    ("wanted", "row_bytes", "count"),
    [(400, 100.0, 400), (5000, 100.0, 1000), (1000, SAMPLE_BYTES_MAX / 10, 10), (1000, 1e12, 1)],
)
def test_many_rows_are_drawn_as_many_as_one_message_holds(wanted: int, row_bytes: float, count: int) -> None:
    records, asked = drawn(wanted, rows=1_000_000, row_bytes=row_bytes)
    assert (len(records), asked.count, asked.split) == (count, count, common_pb2.SPLIT_TRAIN)


def test_numbers_are_whole_again_as_they_were_in_the_row() -> None:
    record = record_of(row(5))
    assert record.line == 5
    assert record.messages[1] == Message(role="assistant", content="b", weight=1)
    assert record.tools is not None
    told = record.tools[0]["function"]["parameters"]
    assert (repr(told["minimum"]), repr(told["step"])) == ("2", "0.5")
