"""Python graders in the room: RunGrader, runs, and that the room answers while they misbehave."""

from __future__ import annotations

import asyncio
import time

import pytest
from google.protobuf.struct_pb2 import Struct

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from tests.contract.evaluation.conftest import PARENT, Room
from tests.contract.evaluation.peers import Peers, wrong_for

SECONDS_MAX = 20.0
SAME = """
import builtins
def grade(sample, item):
    builtins.rows = getattr(builtins, 'rows', 0) + 1
    return (sample['output_text'] == (item.get('label') or item['completion'])) / builtins.rows
"""


def python(source: str, name: str = "ours", **fields: float) -> pb.Grader:
    return pb.Grader(name=name, python=pb.PythonGrader(source=source, **fields))  # type: ignore[arg-type]


def body(text: str) -> str:
    return f"def grade(sample, item):\n    {text}\n"


async def tried(room: Room, grader: pb.Grader, answer: str = "a") -> pb.Grade:
    item = Struct()
    item.update({"label": "a"})
    sample = common.Message(role=common.ROLE_ASSISTANT, parts=[common.Part(text=answer)])
    request = pb.RunGraderRequest(parent=PARENT, grader=grader, item=item, sample=sample)
    return (await room.stub.RunGrader(request, timeout=60)).grade


async def test_a_function_grades_an_answer(room: Room) -> None:
    grade = await tried(room, python(SAME))
    assert (grade.value, grade.passed, grade.HasField("error")) == (1.0, True, False)
    assert (await tried(room, python(SAME), "b")).value == 0.0
    clipped = await tried(room, python(body("return 3")))
    assert (clipped.value, clipped.raw) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("return sample['nothing']", "KeyError: 'nothing'"),
        ("return float('nan')", "finite"),
        ("return 'good'", "of type str"),
        ("import os; os._exit(1)", "ended its process"),
        ("while True: pass", "did not end within"),
    ],
)
async def test_no_number_is_no_grade_and_says_why(room: Room, text: str, why: str) -> None:
    grade = await tried(room, python(body(text), timeout_seconds=0.5))
    assert not grade.HasField("value")
    assert grade.error.kind == pb.GraderError.KIND_PYTHON
    assert why in grade.error.message


async def test_what_a_grader_may_be_is_checked_when_it_is_made(room: Room) -> None:
    made = await room.stub.ValidateGrader(pb.ValidateGraderRequest(parent=PARENT, grader=python(SAME)))
    assert (made.python.pass_threshold, made.python.timeout_seconds) == (0.5, 10.0)


async def test_rows_of_a_run_share_no_state(room: Room, peers: Peers) -> None:
    peers.inference.reply = wrong_for(3)
    run = await room.measured((await room.eval(python(SAME))).name)
    (ours,) = (result for result in run.results if result.grader == "ours")
    assert (ours.n, ours.mean) == (12, pytest.approx(11 / 12))


async def test_the_room_answers_others_while_graders_hang(room: Room) -> None:
    endless = python(body("while True: pass"), timeout_seconds=1)
    hanging = [asyncio.ensure_future(tried(room, endless)) for _ in range(6)]
    began = time.monotonic()
    for _ in range(20):
        await room.stub.ListEvals(pb.ListEvalsRequest(parent=PARENT), timeout=SECONDS_MAX)
    assert time.monotonic() - began < SECONDS_MAX
    for grade in await asyncio.gather(*hanging):
        assert grade.error.kind == pb.GraderError.KIND_PYTHON
