"""Reports show every run, compare with the first, and carry nothing that a model wrote as code."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import grpc
import pytest

from feinschliff.kit.errors import from_rpc_error
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from tests.contract.evaluation.conftest import Room, exact, fuzzy
from tests.contract.evaluation.peers import Peers, number_of, wrong_for


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


async def test_a_report_shows_runs_compared_as_markdown_page_and_table(room: Room, peers: Peers) -> None:
    peers.inference.reply = wrong_for(*range(11))
    eval_ = await room.eval(exact(), fuzzy(), display_name="<b>routing | all</b>")
    baseline = await room.measured(eval_.name, display_name="<script>alert(1)</script>")
    peers.inference.reply = lambda request: "=cmd()" if number_of(request) == 0 else wrong_for()(request)
    sampling = common.SamplingParams(temperature=1, n=2)
    candidate = await room.measured(eval_.name, sampling=sampling)

    async def rendered(form: pb.RenderReportRequest.Format.ValueType) -> pb.RenderReportResponse:
        request = pb.RenderReportRequest(runs=[baseline.name, candidate.name], format=form)
        return await room.stub.RenderReport(request)

    text = await rendered(pb.RenderReportRequest.FORMAT_UNSPECIFIED)
    assert text.media_type == "text/markdown"
    for word in (
        "0.083",
        "overall",
        "better",
        "other sampling",
        "pass@k",
        "routing \\| all",
        "24 answers to 12 different rows",
    ):
        assert word in text.text
    assert "<b>" not in text.text

    page = await rendered(pb.RenderReportRequest.FORMAT_HTML)
    assert page.media_type == "text/html"
    found = Tags(page.text)
    assert "script" not in found.tags
    assert "b" not in found.tags
    assert found.tags.count("svg") == 4
    assert not {name for name in found.attributes if name.startswith("on") or name in ("src", "href")}

    table = await rendered(pb.RenderReportRequest.FORMAT_CSV)
    assert table.media_type == "text/csv"
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert len(rows) == 12 * 2 + 24 * 2
    assert {(row["line"], row["sample"]) for row in rows[24:]} == {(str(k), s) for k in range(1, 13) for s in "01"}
    assert {row["grader"] for row in rows} == {"exact", "near"}


async def test_reports_name_one_to_sixteen_runs_of_one_eval_each_once(room: Room) -> None:
    run = await room.measured((await room.eval()).name, limit=1)
    other = await room.measured((await room.eval()).name, limit=1)
    for wanted in ([run.name, run.name], [run.name, other.name], [f"{run.name}{k}" for k in range(17)]):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await room.stub.RenderReport(pb.RenderReportRequest(runs=wanted))
        assert from_rpc_error(error.value).reason == "REPORT_RUNS_INVALID"
