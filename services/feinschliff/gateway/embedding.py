"""The body of a request for embeddings, what it asks of inference, and the vectors as OpenAI sends them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, JsonValue

from feinschliff.gateway.bodies import Body
from feinschliff.gateway.completing import USER_CHARACTERS_MAX, Prompts
from feinschliff.gateway.errors import ParamOf
from feinschliff.v1 import inference_pb2 as pb

INPUTS_MAX = 2048
INPUTS_PER_CALL = 256
"""Vectors of the widest models still fit into one gRPC message."""


class Part(NamedTuple):
    """A request for some of the inputs, the first of them at this place."""

    start: int
    request: pb.EmbedRequest


class EmbeddingBody(Body):
    """`POST /v1/embeddings`."""

    model: str = Field(min_length=1, max_length=1024)
    input: Annotated[Prompts, Field(min_length=1, max_length=INPUTS_MAX)]
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None

    def to_requests(self, model: str, project: str, route_key: str) -> Iterator[Part]:
        """Inputs in order, those of one request all texts or all tokens; all for the same route of a deployment."""
        start = 0
        while start < len(self.input):
            kind, stop = type(self.input[start]), start
            while stop < min(start + INPUTS_PER_CALL, len(self.input)) and type(self.input[stop]) is kind:
                stop += 1
            user = (self.user or "")[:USER_CHARACTERS_MAX]
            request = pb.EmbedRequest(
                model=model, dimensions=self.dimensions or 0, user=user, project=project, route_key=route_key
            )
            for one in self.input[start:stop]:
                if isinstance(one, str):
                    request.texts.append(one)
                else:
                    request.tokens.add(ids=one)
            yield Part(start, request)
            start = stop

    def param_of(self, start: int) -> ParamOf:
        """Paths in the HTTP body for paths in a request whose first input is at `start`."""

        def find(path: str) -> str | None:
            kind, separator, rest = path.partition("[")
            if kind not in ("texts", "tokens"):
                return path
            if not separator or len(self.input) == 1:
                return "input"
            place, _, inner = rest.partition("]")
            return f"input[{start + int(place)}]{inner.removeprefix('.ids')}"

        return find

    def answer(self, answers: Sequence[pb.EmbedResponse]) -> JsonValue:
        vectors = [one.values for answer in answers for one in answer.embeddings]
        tokens = sum(answer.usage.prompt_tokens for answer in answers)
        data: list[JsonValue] = [
            {"object": "embedding", "index": place, "embedding": self._written(values)}
            for place, values in enumerate(vectors)
        ]
        usage: dict[str, JsonValue] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self.model, "usage": usage}

    def _written(self, values: Sequence[float]) -> JsonValue:
        if self.encoding_format == "base64":
            return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        return list(values)
