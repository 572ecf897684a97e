"""Evaluation's own door for trials of graders, with judges that answer what a test says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from feinschliff.evaluation.clients import Answer
from feinschliff.evaluation.grading.grading import Grading
from feinschliff.evaluation.grading.outside import Installation, Paces, RoomOutside
from feinschliff.evaluation.grading.posting import Poster, Reach
from feinschliff.evaluation.optimization.service import Optimizing
from feinschliff.evaluation.resources import Identity, Usage
from feinschliff.evaluation.service import EvaluationService
from feinschliff.formats.records import Message
from feinschliff.kit.errors import NotFound
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Servicer
from feinschliff.v1 import evaluation_pb2_grpc

GONE = "gone"


class Judges:
    """Gives `result` to every question; remembers which models were asked. A model named GONE is not there."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.result: object = 1
        self.asked: list[str] = []

    async def ask(
        self, project: str, model: str, messages: Sequence[Message], sampling: Mapping[str, object]
    ) -> Answer:
        self.asked.append(model)
        if model == GONE:
            raise NotFound("MODEL_NOT_FOUND", "It is not there.")
        text = json.dumps({"steps": [], "result": self.result})
        identity = Identity("projects/default/models/judge/versions/1", "b", "", "t")
        return Answer(Message(role="assistant", content=text), "stop", Usage(30, 10), identity, 0.1)

    def servicer(self) -> Servicer:
        installation = Installation("", {}, {}, Reach(private=False, public=False), Reach(False, False), 1, 1.0)
        models: Any = self
        outside = RoomOutside(installation, models, measures=models, poster=Poster(), paces=Paces(), sandboxed=models)
        nothing: Any = None
        grading = Grading(outside, Metrics("evaluation"))
        service = EvaluationService(
            evaluations=nothing,
            runs=nothing,
            comparisons=nothing,
            prompts=nothing,
            optimizing=Optimizing(*[nothing] * len(Optimizing._fields)),
            reports=nothing,
            grading=grading,
            deciding=nothing,
            clock=nothing,
            wake=nothing,
        )
        add = evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server
        return Servicer(add, service, "feinschliff.v1.EvaluationService")
