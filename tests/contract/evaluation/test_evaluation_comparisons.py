"""Two runs compared row by row, and graders tried alone: over real gRPC."""

from __future__ import annotations

import pytest

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from tests.contract.evaluation.conftest import PARENT, Room, exact, fuzzy
from tests.contract.evaluation.peers import OTHER_VERSION, VERSION, Peers, conversations, wrong_for
from tests.contract.evaluation.test_evaluation_api import refusal_of, similarity


async def test_two_runs_are_compared_row_by_row(room: Room, peers: Peers) -> None:
    peers.ingestion.versions[VERSION] = {"train": conversations(40)}
    eval_ = await room.eval(exact(), fuzzy())
    peers.inference.reply = wrong_for(*range(10, 25))
    base = await room.measured(eval_.name, model="base")
    peers.inference.reply = wrong_for(24, 30)
    tuned = await room.measured(eval_.name, model="tuned")

    request = pb.CompareRunsRequest(baseline=base.name, candidate=tuned.name)
    result = await room.stub.CompareRuns(request)
    assert (result.grader, result.n, result.wins, result.losses, result.ties) == ("overall", 40, 14, 1, 25)
    assert (result.baseline_mean, result.candidate_mean) == (25 / 40, 38 / 40)
    assert result.difference == pytest.approx(13 / 40)
    assert result.p_value == pytest.approx(2 * 16 / 2**15)
    assert result.interval.low < result.difference < result.interval.high
    assert result.interval.level == 0.95
    assert (result.method, result.verdict) == (pb.RunComparison.METHOD_MCNEMAR, pb.RunComparison.VERDICT_BETTER)
    assert not result.findings

    worse = await room.stub.CompareRuns(pb.CompareRunsRequest(baseline=tuned.name, candidate=base.name))
    assert worse.verdict == pb.RunComparison.VERDICT_WORSE
    request.grader, request.level = "near", 0.9
    near = await room.stub.CompareRuns(request)
    assert (near.method, near.interval.level) == (pb.RunComparison.METHOD_PAIRED_BOOTSTRAP, 0.9)
    assert near.verdict == pb.RunComparison.VERDICT_BETTER
    same = await room.stub.CompareRuns(pb.CompareRunsRequest(baseline=base.name, candidate=base.name))
    assert (same.p_value, same.verdict) == (1.0, pb.RunComparison.VERDICT_INCONCLUSIVE)


async def test_a_comparison_names_what_weakens_it(room: Room, peers: Peers) -> None:
    eval_ = await room.eval()
    base = await room.measured(eval_.name)
    short = await room.measured(eval_.name, limit=8, sampling=common.SamplingParams(temperature=1))
    result = await room.stub.CompareRuns(pb.CompareRunsRequest(baseline=base.name, candidate=short.name))
    assert result.n == 8
    findings = {(finding.code, finding.field): finding for finding in result.findings}
    assert list(findings[("ROWS_LEFT_OUT", "")].rows) == [9, 10, 11, 12]
    assert set(findings) == {("ROWS_LEFT_OUT", ""), ("RUNS_DIFFER", "sampling"), ("RUNS_DIFFER", "limit")}
    one = await room.measured(eval_.name, limit=1)
    lonely = await room.stub.CompareRuns(pb.CompareRunsRequest(baseline=base.name, candidate=one.name))
    assert (lonely.n, lonely.verdict) == (1, pb.RunComparison.VERDICT_INCONCLUSIVE)
    assert not lonely.HasField("p_value")
    assert not lonely.HasField("interval")
    assert "TOO_FEW_ROWS" in [finding.code for finding in lonely.findings]


async def test_runs_that_measure_different_things_are_not_compared(room: Room, peers: Peers) -> None:
    peers.ingestion.versions[OTHER_VERSION] = {"train": conversations(12)}
    eval_ = await room.eval()
    one = await room.measured(eval_.name)
    another_eval = await room.measured((await room.eval()).name)
    other_rows = await room.measured(eval_.name, dataset_version=OTHER_VERSION)
    peers.inference.gate.clear()
    unfinished = await room.run(eval_.name)

    async def refused(candidate: str, **fields: object) -> str:
        request = pb.CompareRunsRequest(baseline=one.name, candidate=candidate, **fields)  # type: ignore[arg-type]
        return (await refusal_of(room.stub.CompareRuns(request))).reason

    assert await refused(another_eval.name) == "COMPARISON_EVALS_DIFFER"
    assert await refused(other_rows.name) == "COMPARISON_DATASETS_DIFFER"
    assert await refused(unfinished.name) == "RUN_NOT_COMPLETED"
    assert await refused(f"{eval_.name}/runs/none") == "RUN_NOT_FOUND"
    assert await refused(one.name, grader="none") == "GRADER_UNKNOWN"
    assert await refused(one.name, level=0.2) == "LEVEL_INVALID"
    assert await refused(one.name, seed=-1) == "SEED_INVALID"


async def test_a_grader_is_checked_and_answered_whole(room: Room) -> None:
    grader = similarity(pb.TextSimilarityGrader.METRIC_FUZZY_MATCH)
    checked = await room.stub.ValidateGrader(pb.ValidateGraderRequest(parent=PARENT, grader=grader))
    assert checked.text_similarity.pass_threshold == 0.5
    check = exact(input="x {{ sample.nothing }}")
    refusal = await refusal_of(room.stub.ValidateGrader(pb.ValidateGraderRequest(parent=PARENT, grader=check)))
    assert (refusal.reason, refusal.fields[0].field) == ("TEMPLATE_SYNTAX", "grader.string_check.input")
    assert refusal.metadata["position"] == "6"


async def test_a_grader_is_run_on_one_answer(room: Room) -> None:
    def request(answer: str, **item: object) -> pb.RunGraderRequest:
        message = common.Message(role=common.ROLE_ASSISTANT, parts=[common.Part(text=answer)])
        made = pb.RunGraderRequest(parent=PARENT, grader=exact(), sample=message)
        made.item.update(item)  # type: ignore[arg-type]
        return made

    right = await room.stub.RunGrader(request("refund", completion="refund"))
    assert (right.grade.grader, right.grade.value, right.grade.passed) == ("exact", 1.0, True)
    assert right.seconds >= 0
    missing = await room.stub.RunGrader(request("refund"))
    assert not missing.grade.HasField("value")
    assert missing.grade.error.kind == pb.GraderError.KIND_TEMPLATE
    assert "item has no field completion" in missing.grade.error.message
    conversation = conversations(1)[0]["messages"]
    assert (await room.stub.RunGrader(request("refund", messages=conversation))).grade.passed
