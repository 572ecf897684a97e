"""The rooms that gates ask: inference that also scores and says which model answered, and a registry of versions."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import inference_pb2, registry_pb2, registry_pb2_grpc
from tests.contract.evaluation.peers import Inference, Peers, conversations, refuse
from tests.support.ports import free_port

CANDIDATE = "projects/default/models/router/versions/1"
OLDER = "projects/default/models/router/versions/0"
PRODUCTION, STAGING = (f"projects/default/models/router@{alias}" for alias in ("production", "staging"))
BASE = "hf:tiny"
Likelihood = Callable[[str], float]


def people(count: int) -> list[dict[str, object]]:
    """Conversations with a region, a pronoun in each question, and a pair of sentences."""
    rows = []
    for k, row in enumerate(conversations(count)):
        row = dict(row)
        turns = [dict(turn) for turn in row["messages"]]  # type: ignore[attr-defined]
        turns[1]["content"] = f"He writes: message {k}"
        pair = {"sent_more": f"stereotype {k}", "sent_less": f"other {k}"}
        rows.append({**row, "messages": turns, "region": ("north", "south")[k % 2], **pair})
    return rows


def alternating(text: str) -> float:
    """Finds every second stereotype likelier."""
    kind, k = text.rsplit(" ", 1)
    return -10.0 + float((int(k) % 2 == 0) == (kind == "stereotype"))


@dataclass
class ScoringInference(Inference):
    """Says that the model asked is the one that answered, unless `impostor` does."""

    impostor: str = ""
    impostor_of_probes: str = ""
    likelihood: Likelihood = alternating
    scored: list[str] = field(default_factory=list)

    def Chat(self, request: inference_pb2.ChatRequest, context: grpc.ServicerContext) -> inference_pb2.ChatResponse:
        answer = super().Chat(request, context)
        is_swapped = "She writes" in request.messages[-1].parts[0].text
        answer.identity.model_version = (is_swapped and self.impostor_of_probes) or self.impostor or request.model
        return answer

    def Score(self, request: inference_pb2.ScoreRequest, context: grpc.ServicerContext) -> inference_pb2.ScoreResponse:
        with self.lock:
            self.scored.append(request.text.text)
            self.projects.add(request.project)
        return inference_pb2.ScoreResponse(
            identity=common.Identity(model_version=self.impostor_of_probes or request.model),
            total_logprob=self.likelihood(request.text.text),
        )

    def asked_of(self, model: str) -> int:
        with self.lock:
            return sum(request.model == model for request in self.requests)


@dataclass
class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """Versions by name, with the base that each was made from, and aliases."""

    bases: dict[str, str] = field(default_factory=lambda: {CANDIDATE: BASE, OLDER: BASE})
    aliases: dict[str, str] = field(default_factory=lambda: {PRODUCTION: OLDER, STAGING: CANDIDATE})

    def GetModelVersion(
        self, request: registry_pb2.GetModelVersionRequest, context: grpc.ServicerContext
    ) -> registry_pb2.ModelVersion:
        name = self.aliases.get(request.name, request.name)
        if name not in self.bases:
            refuse(context, grpc.StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND")
        return registry_pb2.ModelVersion(name=name, base_model=self.bases[name])


class GatePeers(Peers):
    """Ingestion, inference and a registry."""

    def __init__(self) -> None:
        super().__init__()
        self.inference: ScoringInference = ScoringInference()
        self.registry = Registry()
        self.registry_port = free_port()

    def start(self) -> None:
        super().start()
        server = grpc.server(ThreadPoolExecutor(4))
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(self.registry, server)
        self._serve(server, self.registry_port)
