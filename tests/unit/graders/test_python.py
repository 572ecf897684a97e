"""Python graders: what is run, and what its outcome means for the grade; nothing is run here."""

from __future__ import annotations

import pytest

from feinschliff.graders import wire
from feinschliff.graders.grade import Fault, Grade, Sample
from feinschliff.graders.grader import parse
from feinschliff.graders.protocol import put
from feinschliff.sandbox import call as sandbox
from feinschliff.v1 import evaluation_pb2 as pb
from tests.unit.graders.tables_asking import FakeOutside

SOURCE = "def grade(sample, item):\n    return 1.0\n"
SPEC = {"type": "python", "name": "ours", "source": SOURCE}


async def grade(outcome: sandbox.Outcome, **fields: object) -> tuple[Grade, FakeOutside]:
    outside = FakeOutside([outcome])
    sample = Sample('{"a": 1}', [{"id": "1"}])
    return await put(parse({**SPEC, **fields}), {"x": 3}, sample, outside), outside


async def test_the_function_sees_row_and_answer_as_documented() -> None:
    _, outside = await grade(sandbox.Outcome(1.0), image_tag="ours-1", timeout_seconds=3)
    (call,) = outside.asked
    assert isinstance(call, sandbox.Call)
    assert (call.source, call.item, call.environment, call.timeout_seconds) == (SOURCE, {"x": 3}, "ours-1", 3.0)
    assert set(call.sample) == {"output_text", "output_json", "output_tools", "choices"}


@pytest.mark.parametrize(("number", "value", "raw"), [(0.25, 0.25, None), (3.0, 1.0, 3.0), (-1.0, 0.0, -1.0)])
async def test_numbers_are_clipped_and_kept(number: float, value: float, raw: float | None) -> None:
    given, _ = await grade(sandbox.Outcome(number, printed="seen"))
    assert (given.value, given.raw, given.fault) == (value, raw, None)
    assert "seen" in given.why


@pytest.mark.parametrize("fault", list(sandbox.Fault))
async def test_no_number_is_no_grade(fault: sandbox.Fault) -> None:
    given, _ = await grade(sandbox.failed(fault, "it broke", "seen"))
    assert (given.value, given.fault) == (None, Fault.SANDBOX if fault is sandbox.Fault.SANDBOX else Fault.PYTHON)
    assert given.why == "it broke\nprinted:\nseen"


def test_a_definition_survives_the_way_through_the_api() -> None:
    grader = parse({**SPEC, "image_tag": "ours-1"})
    spec = grader.spec()
    assert (spec["pass_threshold"], spec["timeout_seconds"], grader.is_binary) == (0.5, 10.0, False)
    message = wire.to_message(spec)
    assert message == pb.Grader(
        name="ours",
        python=pb.PythonGrader(source=SOURCE, image_tag="ours-1", pass_threshold=0.5, timeout_seconds=10),
    )
    assert parse(wire.from_message(message), nested=True) == grader
