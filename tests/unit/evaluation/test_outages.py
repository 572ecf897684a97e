"""What graders ask is out of order: a run waits for it, a trial does not."""

from __future__ import annotations

from typing import Any

import pytest

from feinschliff.evaluation.grading.outside import Installation, Paces, RoomOutside
from feinschliff.evaluation.grading.posting import Post, PostFailed, Reach
from feinschliff.evaluation.runs.worker import Halt
from feinschliff.evaluation.work.failures import failure_of
from feinschliff.graders.outside import Call, CannotAsk
from feinschliff.kit.errors import Refusal
from feinschliff.sandbox import call as sandbox

EVERYWHERE = Reach(private=True, public=True)
INSTALLATION = Installation("", {}, {}, EVERYWHERE, EVERYWHERE, 3, 5)


class Waits:
    """A run's patience, at its end after so many failures."""

    def __init__(self, failures_max: int) -> None:
        self.left = failures_max
        self.told: list[str] = []

    def succeeded(self) -> None:
        self.told.append("succeeded")

    def failed(self, refusal: Refusal) -> None:
        self.told.append(refusal.reason)
        self.left -= 1
        if self.left < 0:
            raise Halt(failure_of(refusal))


class Script:
    """A poster and a sandbox that answer in turn, a failure by raising it, the last answer from then on."""

    environments = ()

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.pool = None

    def send(self, post: Post, reach: Reach) -> object:
        answer = self._next()
        if isinstance(answer, PostFailed):
            raise answer
        return answer

    async def run(self, call: sandbox.Call) -> object:
        return self._next()

    def _next(self) -> object:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def outside(script: Script, waiting: Waits | None) -> RoomOutside:
    made: Any = script
    nothing: Any = None
    return RoomOutside(INSTALLATION, nothing, nothing, made, Paces(), made, project="p", waiting=waiting)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feinschliff.evaluation.grading.outside.PAUSE_SECONDS", 0)
    monkeypatch.setattr("feinschliff.evaluation.grading.outside.pause_seconds", lambda refusal, attempt: 0)


DOWN = PostFailed("host does not answer", again=True, is_outage=True)
BROKEN = PostFailed("host answered with status 500", again=True)
CALL = Call("https://host", "", 1000, 5, {})


async def test_a_server_that_is_not_there_is_waited_for_in_a_run_alone() -> None:
    waits, script = Waits(9), Script(*[DOWN] * 5, {"score": 1})
    assert await outside(script, waits).post(CALL) == {"score": 1}
    assert waits.told == ["GRADER_UNAVAILABLE"] * 5 + ["succeeded"]
    with pytest.raises(Halt) as halt:
        await outside(Script(DOWN), Waits(3)).post(CALL)
    assert (halt.value.failure.reason, halt.value.failure.retryable) == ("GRADER_UNAVAILABLE", True)
    script = Script(DOWN)
    with pytest.raises(CannotAsk, match="does not answer"):
        await outside(script, None).post(CALL)
    assert script.asked == 3


async def test_a_server_that_fails_at_one_answer_holds_up_no_run() -> None:
    waits, script = Waits(9), Script(BROKEN)
    with pytest.raises(CannotAsk, match="status 500"):
        await outside(script, waits).post(CALL)
    assert (script.asked, waits.told) == (3, [])


async def test_a_sandbox_that_is_out_of_order_is_waited_for_in_a_run_alone() -> None:
    dead = sandbox.failed(sandbox.Fault.SANDBOX, "a process died")._replace(again=True)
    call, waits = sandbox.Call("", {}, {}), Waits(9)
    outcome = sandbox.Outcome(0.5)
    assert await outside(Script(dead, dead, outcome), waits).run(call) == outcome
    assert waits.told == ["GRADER_UNAVAILABLE"] * 2 + ["succeeded"]
    with pytest.raises(Halt):
        await outside(Script(dead), Waits(3)).run(call)
    assert await outside(Script(dead), None).run(call) == dead
    unknown = sandbox.failed(sandbox.Fault.SANDBOX, "'x' is no environment")
    waits = Waits(0)
    assert await outside(Script(unknown), waits).run(call) == unknown
    assert waits.told == []
