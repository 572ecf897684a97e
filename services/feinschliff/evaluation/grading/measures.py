"""What inference measures of texts for graders: embeddings, and how likely a text is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import grpc

from feinschliff.graders.outside import Likelihood
from feinschliff.kit import client
from feinschliff.kit.errors import from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.v1 import inference_pb2, inference_pb2_grpc


class Scored(NamedTuple):
    """How likely a text is, and to whom."""

    likelihood: Likelihood
    model_version: str


class Measures:
    """Embeddings and likelihoods, from inference."""

    def __init__(self, address: str, metrics: Metrics, timeout_seconds: float) -> None:
        self._address = address
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds

    async def embed(self, project: str, model: str, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text; raises what inference refuses with."""
        request = inference_pb2.EmbedRequest(model=model, texts=texts, project=project)
        try:
            response = await self._stub().Embed(request, timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return [list(one.values) for one in response.embeddings]

    async def likelihood(self, project: str, model: str, prompt: str, text: str) -> Likelihood:
        """Of the text after the prompt; raises what inference refuses with."""
        return (await self.scored(project, model, prompt, text)).likelihood

    async def scored(self, project: str, model: str, prompt: str, text: str) -> Scored:
        """As `likelihood`, with the model version that it is of."""
        scored = inference_pb2.ScoreText(prompt=prompt, text=text)
        request = inference_pb2.ScoreRequest(model=model, text=scored, project=project)
        try:
            response = await self._stub().Score(request, timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        likelihood = Likelihood(response.total_logprob, len(response.logprobs))
        return Scored(likelihood, response.identity.model_version)

    def _stub(self) -> inference_pb2_grpc.InferenceServiceAsyncStub:
        channel = client.channel(
            self._address,
            name="inference",
            services=[inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name],
            metrics=self._metrics,
            timeout_seconds=self._timeout_seconds,
        )
        return inference_pb2_grpc.InferenceServiceStub(channel)
