"""Judges beside people: measured over real wires, and what a gate says of one that is not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import inference_pb2
from tests.contract.evaluation.conftest import PARENT, Room, Settings
from tests.contract.evaluation.gate_peers import CANDIDATE, GatePeers, people
from tests.contract.evaluation.peers import VERSION, right_answer
from tests.contract.evaluation.test_evaluation_api import refusal_of
from tests.contract.evaluation.test_evaluation_gates import begin, gate, given, rule

LABELLED = "projects/default/datasets/labelled/versions/1"
ROWS = 40


def labelled(k: int) -> dict[str, object]:
    """Every second answer is good, and people say so but for two rows."""
    says_good = (k % 2 == 0) != (k in (4, 7))
    return {"line": k + 1, "completion": ("right", "wrong")[k % 2], "label": ("bad", "good")[says_good]}


def reply(request: inference_pb2.ChatRequest) -> str:
    if request.model != "judge":
        return right_answer(request)
    asked = request.messages[-1].parts[0].text
    return json.dumps({"steps": [], "result": "bad" if "wrong" in asked else "good"})


@pytest.fixture
def peers() -> Iterator[GatePeers]:
    peers = GatePeers()
    peers.ingestion.versions[VERSION] = {"train": people(24)}
    peers.ingestion.versions[LABELLED] = {"train": [*map(labelled, range(ROWS)), {"line": ROWS + 1, "completion": "x"}]}
    peers.inference.reply = reply
    peers.start()
    yield peers
    peers.stop()


@pytest.fixture
async def room(settings: Settings, peers: GatePeers) -> AsyncIterator[Room]:
    room = Room(settings(registry_address=f"127.0.0.1:{peers.registry_port}"))
    await room.start()
    yield room
    await room.close()


def judge(calibration: str = "") -> pb.Grader:
    turn = pb.TemplateMessage(role=common.ROLE_USER, text="Is this good? {{ sample.output_text }}")
    labels = pb.LabelModelGrader(model="judge", input=[turn], labels=["good", "bad"], passing_labels=["good"])
    labels.calibration = calibration
    return pb.Grader(name="kind", label_model=labels)


async def calibrated(room: Room, label_path: str = "item.label") -> pb.Calibration:
    wanted = pb.Calibration(grader=judge(), dataset_version=LABELLED, label_path=label_path)
    request = pb.CalibrateJudgeRequest(parent=PARENT, calibration=wanted)
    begun = await room.stub.CalibrateJudge(request)
    assert begun.state == pb.Calibration.STATE_QUEUED
    watched = [one async for one in room.stub.WatchCalibration(pb.WatchCalibrationRequest(name=begun.name))]
    return watched[-1].calibration


async def test_a_judge_is_measured_beside_people_and_may_then_gate(room: Room, peers: GatePeers) -> None:
    found = await calibrated(room)
    assert found.state == pb.Calibration.STATE_SUCCEEDED, found.failure
    assert (found.n, found.left_out, found.agreement) == (ROWS, 1, 0.95)
    assert found.kappa == pytest.approx(0.9)
    assert (found.true_positive_rate, found.true_negative_rate) == (0.95, 0.95)
    assert dict(found.confusion) == {"good/good": 19, "bad/bad": 19, "good/bad": 1, "bad/good": 1}
    assert found.judge_identity.model_version == "judge"
    assert found.progress.done == found.progress.total == ROWS + 1
    assert [finding.code for finding in found.findings] == ["ROWS_LEFT_OUT"]
    assert await room.stub.GetCalibration(pb.GetCalibrationRequest(name=found.name)) == found
    listed = await room.stub.ListCalibrations(pb.ListCalibrationsRequest(parent=PARENT))
    assert [one.name for one in listed.calibrations] == [found.name]

    floor = {"floor": pb.FloorDemand(mean_min=0.9)}
    policy = await gate(room, rule(await room.eval(judge(found.name)), **floor))
    assert (await given(room, (await begin(room, policy)).name)).state == pb.Verdict.STATE_PASSED


async def test_a_judge_that_nobody_checked_or_that_disagrees_cannot_gate(room: Room, peers: GatePeers) -> None:
    floor = {"floor": pb.FloorDemand(mean_min=0.9)}
    unchecked = await gate(room, rule(await room.eval(judge()), **floor))
    assert (await refusal_of(begin(room, unchecked))).reason == "JUDGE_NOT_CALIBRATED"
    peers.inference.reply = lambda request: json.dumps({"steps": [], "result": "good"})
    bad = await calibrated(room)
    assert "KAPPA_LOW" in [finding.code for finding in bad.findings]
    checked = await gate(room, rule(await room.eval(judge(bad.name)), **floor))
    refusal = await refusal_of(begin(room, checked))
    assert (refusal.reason, refusal.code.name) == ("JUDGE_NOT_TRUSTED", "FAILED_PRECONDITION")
    assert not (await room.stub.ListVerdicts(pb.ListVerdictsRequest(parent=checked.name))).verdicts
    assert CANDIDATE not in {request.model for request in peers.inference.requests}


async def test_only_judges_are_calibrated(room: Room) -> None:
    checked = pb.Grader(name="x", string_check=pb.StringCheckGrader(input="a", reference="a", operation=1))
    wanted = pb.Calibration(grader=checked, dataset_version=LABELLED, label_path="item.label")
    request = pb.CalibrateJudgeRequest(parent=PARENT, calibration=wanted)
    assert (await refusal_of(room.stub.CalibrateJudge(request))).reason == "CALIBRATION_NO_JUDGE"
    wanted.grader.CopyFrom(judge())
    wanted.label_path = "item."
    request = pb.CalibrateJudgeRequest(parent=PARENT, calibration=wanted)
    assert (await refusal_of(room.stub.CalibrateJudge(request))).reason == "TEMPLATE_SYNTAX"
