"""What graders give that ask a model or a server, for which answer of that one. None: it cannot be graded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from feinschliff.graders.grade import Fault
from feinschliff.graders.outside import Call, CannotAsk, Likelihood, Question, Reply
from feinschliff.graders.spec import ANSWER, Spec
from feinschliff.sandbox import call as sandbox
from tests.unit.graders.tables import REFERENCE


@dataclass
class FakeOutside:
    """Answers in turn what it was given, a CannotAsk by raising it; remembers what it was asked."""

    answers: Sequence[object]
    asked: list[object] = field(default_factory=list)

    async def judge(self, question: Question) -> Reply:
        said = self._next(question)
        assert isinstance(said, str | Reply)
        return said if isinstance(said, Reply) else Reply(said, "stop", {"model_version": "judge/1"}, 10, 5)

    async def embed(self, model: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        said = self._next((model, tuple(texts)))
        assert isinstance(said, Sequence)
        return said

    async def likelihoods(self, model: str, prompt: str, texts: Sequence[str]) -> Sequence[Likelihood]:
        said = self._next((model, prompt, tuple(texts)))
        assert isinstance(said, Sequence)
        return [Likelihood(*one) for one in said]

    async def post(self, call: Call) -> object:
        return self._next(call)

    async def run(self, call: sandbox.Call) -> sandbox.Outcome:
        said = self._next(call)
        assert isinstance(said, sandbox.Outcome)
        return said

    def _next(self, asked: object) -> object:
        self.asked.append(asked)
        said = self.answers[(len(self.asked) - 1) % len(self.answers)]
        if isinstance(said, CannotAsk):
            raise said
        return said


class AskingRow(NamedTuple):
    """A definition without its name, the row's `right`, the sample's text, what comes back, and the grade."""

    spec: Spec
    right: object
    answer: str
    replies: Sequence[object]
    value: float | None
    fault: Fault | None = None


def judged(result: object) -> str:
    return json.dumps({"steps": [{"description": "d", "conclusion": "c"}], "result": result})


def asking(
    spec: Spec, *cases: tuple[Sequence[object], float | None] | tuple[Sequence[object], None, Fault]
) -> list[AskingRow]:
    return [AskingRow(spec, "right", "an answer", *case) for case in cases]


TURNS = [{"role": "user", "content": f"Judge {ANSWER} by {REFERENCE}"}]
SCORE: Spec = {"type": "score_model", "model": "judge", "input": TURNS}
TEN: Spec = {**SCORE, "range": [0, 10]}
THRICE: Mapping[str, object] = {"sampling_params": {"temperature": 1, "n": 3, "seed": 5}}
LABEL: Spec = {
    "type": "label_model",
    "model": "judge",
    "input": TURNS,
    "labels": ["good", "fair", "bad"],
    "passing_labels": ["good", "fair"],
}
COSINE: Spec = {"type": "text_similarity", "input": ANSWER, "reference": REFERENCE, "evaluation_metric": "cosine"}
LIKELY: Spec = {
    "type": "choice",
    "reference": REFERENCE,
    "options": ["wrong", "right"],
    "likelihood": {"prompt": "Q: {{ item.right }}\nA: ", "model": "scorer"},
}
BY_TOKENS: Spec = {**LIKELY, "likelihood": {"prompt": "Q", "normalization": "tokens"}}
BY_BYTES: Spec = {**LIKELY, "options": ["no", "right"], "likelihood": {"prompt": "Q", "normalization": "bytes"}}
ENDPOINT: Spec = {"type": "endpoint", "url": "https://grader.example/v1"}
DOWN, UP_REFUSED = CannotAsk(Fault.JUDGE, "down"), Reply("I cannot help.", "content_filter", {}, 3, 4)

ASKING = [
    *asking(
        SCORE,
        ([judged(1)], 1),
        ([judged(0)], 0),
        ([judged(0.25)], 0.25),
        ([judged(3)], 1),
        ([judged(-3)], 0),
        (['{"result": 0.5}'], 0.5),
        ([judged("1")], None, Fault.JUDGE_UNREADABLE),
        ([judged(True)], None, Fault.JUDGE_UNREADABLE),
        ([judged(None)], None, Fault.JUDGE_UNREADABLE),
        (["0.5"], None, Fault.JUDGE_UNREADABLE),
        (["[]"], None, Fault.JUDGE_UNREADABLE),
        ([""], None, Fault.JUDGE_UNREADABLE),
        ([judged(1)[:20]], None, Fault.JUDGE_UNREADABLE),
        ([UP_REFUSED], None, Fault.JUDGE_REFUSED),
        ([DOWN], None, Fault.JUDGE),
    ),
    *asking(TEN, ([judged(10)], 1), ([judged(5)], 0.5), ([judged(11)], 1), ([judged(-1)], 0)),
    *asking({**SCORE, "range": [-1, 1]}, ([judged(0)], 0.5), ([judged(-1)], 0), ([judged(0.5)], 0.75)),
    *asking(
        {**TEN, **THRICE},
        ([judged(4), judged(6), judged(8)], 0.6),
        ([judged(4), judged(6), "?"], 0.5),
        ([judged(20), judged(10), judged(10)], 1),
        ([judged(4), "?", "?"], None, Fault.JUDGE_UNREADABLE),
        ([judged(4), UP_REFUSED, UP_REFUSED], None, Fault.JUDGE_REFUSED),
        ([judged(4), judged(4), DOWN], None, Fault.JUDGE),
    ),
    *asking(
        LABEL,
        ([judged("good")], 1),
        ([judged("fair")], 1),
        ([judged("bad")], 0),
        ([judged("GOOD")], None, Fault.JUDGE_UNREADABLE),
        ([judged("other")], None, Fault.JUDGE_UNREADABLE),
        ([judged(["good"])], None, Fault.JUDGE_UNREADABLE),
        (["good"], None, Fault.JUDGE_UNREADABLE),
        ([UP_REFUSED], None, Fault.JUDGE_REFUSED),
        ([DOWN], None, Fault.JUDGE),
    ),
    *asking(
        {**LABEL, **THRICE},
        ([judged("good"), judged("bad"), judged("bad")], 0),
        ([judged("good"), judged("bad"), judged("good")], 1),
        ([judged("good"), judged("fair"), judged("bad")], None, Fault.JUDGE_UNREADABLE),
        ([judged("good"), judged("bad"), "?"], None, Fault.JUDGE_UNREADABLE),
        ([judged("bad"), judged("bad"), "?"], 0),
    ),
    *asking(
        COSINE,
        ([[[1.0, 0.0], [1.0, 0.0]]], 1),
        ([[[3.0, 4.0], [4.0, 3.0]]], 0.96),
        ([[[1.0, 0.0], [-1.0, 0.0]]], 0),
        ([[[0.0, 0.0], [1.0, 0.0]]], None, Fault.MODEL),
        ([CannotAsk(Fault.MODEL, "no such model")], None, Fault.MODEL),
    ),
    AskingRow(COSINE, " ", "x", [[[1.0], [1.0]]], None, Fault.REFERENCE),
    AskingRow(COSINE, "x", " ", [[[1.0], [1.0]]], 0),
    *asking(
        LIKELY,
        ([[(-1.0, 1), (-0.5, 1)]], 1),
        ([[(-0.5, 1), (-1.0, 1)]], 0),
        ([[(-1.0, 1), (-1.0, 1)]], 0),
        ([CannotAsk(Fault.MODEL, "down")], None, Fault.MODEL),
    ),
    *asking(BY_TOKENS, ([[(-2.0, 1), (-3.0, 2)]], 1), ([[(-2.0, 2), (-3.0, 2)]], 0)),
    *asking(BY_BYTES, ([[(-2.0, 1), (-4.0, 1)]], 1), ([[(-1.0, 1), (-4.0, 1)]], 0)),
    AskingRow(LIKELY, "neither", "x", [[(-1.0, 1), (-1.0, 1)]], None, Fault.REFERENCE),
    *asking(
        ENDPOINT,
        ([{"score": 0.25}], 0.25),
        ([{"score": 1}], 1),
        ([{"score": 7, "more": "x"}], 1),
        ([{"score": -7}], 0),
        ([{"score": "1"}], None, Fault.ENDPOINT),
        ([{"score": True}], None, Fault.ENDPOINT),
        ([{"score": float("nan")}], None, Fault.ENDPOINT),
        ([{"score": 10**400}], None, Fault.ENDPOINT),
        ([{"score": 10**300}], 1.0),
        ([{}], None, Fault.ENDPOINT),
        ([[1]], None, Fault.ENDPOINT),
        ([CannotAsk(Fault.ENDPOINT, "down")], None, Fault.ENDPOINT),
    ),
]
