"""The calls about texts that are there already: how likely they are, what a head says of them, and their vectors."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import Future
from functools import partial
from typing import Any

from feinschliff.inference import conversation as words
from feinschliff.inference import inputs, judging
from feinschliff.inference.answers import Answers
from feinschliff.inference.callers import Caller, caller_of, project_of
from feinschliff.inference.engine import Engine
from feinschliff.inference.guards.guarding import hides
from feinschliff.inference.models import Granted, Models
from feinschliff.inference.proto import Asked, refuse_unserved
from feinschliff.inference.scores import AnswerTokens, ScoringRequest
from feinschliff.inference.spelling import spelled
from feinschliff.kit.threads import offload
from feinschliff.v1 import inference_pb2 as pb


class Texts:
    """Scores and judges texts, and turns them into vectors."""

    def __init__(self, models: Models, answers: Answers) -> None:
        self._models = models
        self._answers = answers

    async def score(self, request: pb.ScoreRequest, seconds_left: float | None) -> pb.ScoreResponse:
        """The log-probability of every scored token; a caller that leaves ends the reading.

        Raises:
            Invalid: REQUEST_INVALID, MESSAGES_INVALID, TOKEN_ID_UNKNOWN, CONTEXT_LENGTH_EXCEEDED.
            WrongState: NOT_A_CHAT_MODEL for a version that judges texts.
            Exhausted: QUEUE_FULL.
        """
        inputs.refuse_top_logprobs(request.top_logprobs)
        caller = Caller(project_of(request))
        granted = await self._models.grant(request.model, seconds_left=seconds_left, caller=caller)
        with granted.lease as lease:
            engine = lease.engine
            if facts := engine.head(lease.adapter_digest):
                raise judging.not_a_chat_model(request.model, facts)
            ids, first = await self._scored_text(request, granted)
            wanted = ScoringRequest(ids, first, lease.adapter_digest, request.top_logprobs)
            refuse_unserved([Asked("top_logprobs", request.top_logprobs > 0 and hides(granted.deployment.spec.guards))])
            future = engine.score(wanted)
            lease.call.when_cut(partial(_cancel, future))
            try:
                scores = await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                lease.call.raise_if_cut()
                raise
            decode = partial(engine.decode, skip_special_tokens=False)
            logprobs = await offload(spelled, scores, ids[:first], decode)
        self._answers.count_read(len(ids))
        return pb.ScoreResponse(
            identity=words.from_identity(granted.identity),
            logprobs=logprobs,
            total_logprob=math.fsum(one.logprob for one in scores),
            usage=words.usage(len(ids), 0),
        )

    async def embed(self, request: pb.EmbedRequest, seconds_left: float | None) -> pb.EmbedResponse:
        """A vector for each text; those of like length are read together.

        Raises:
            Invalid: REQUEST_INVALID, DIMENSIONS_UNSUPPORTED, TOKEN_ID_UNKNOWN, CONTEXT_LENGTH_EXCEEDED.
        """
        inputs.refuse_several(len(request.texts), len(request.tokens))
        caller = caller_of(request)
        granted = await self._models.grant(request.model, seconds_left=seconds_left, caller=caller, needs_vectors=True)
        return await self.embed_on(granted, request)

    async def embed_on(self, granted: Granted, request: pb.EmbedRequest) -> pb.EmbedResponse:
        """The same on what is granted already; its lease is given back."""
        with granted.lease as lease:
            inputs.refuse_several(len(request.texts), len(request.tokens))
            engine, digest, allowed = lease.engine, lease.adapter_digest, lease.engine.facts.dimensions
            inputs.refuse_dimensions(request.dimensions, allowed, request.model)
            dimensions, path = request.dimensions or allowed[-1], "tokens" if request.tokens else "texts"
            inputs.refuse_many_numbers(len(request.tokens) or len(request.texts), dimensions, path)
            rows = await _rows(engine, request)
            lengths = [len(row) for row in rows]
            judging.refuse_lengths(lengths, granted.context_tokens, path)
            found: dict[int, list[float]] = {}
            for places in judging.passes(lengths, virtual_tokens=engine.virtual_tokens(digest)):
                lease.call.raise_if_cut()
                together = [rows[place] for place in places]
                vectors = await offload(engine.embed, together, digest, dimensions)
                found.update(zip(places, vectors, strict=True))
        self._answers.count_read(sum(lengths))
        return pb.EmbedResponse(
            identity=words.from_identity(granted.identity),
            embeddings=[pb.Embedding(values=found[place]) for place in range(len(rows))],
            usage=words.usage(sum(lengths), 0),
        )

    async def classify(self, request: pb.ClassifyRequest, seconds_left: float | None) -> pb.ClassifyResponse:
        """What a head says of each text; those of like length are read together.

        Raises:
            Invalid: REQUEST_INVALID, CONTEXT_LENGTH_EXCEEDED.
            WrongState: NOT_A_CLASSIFIER.
        """
        judging.refuse_texts(request.texts, request.top)
        caller = Caller(project_of(request))
        granted = await self._models.grant(request.model, seconds_left=seconds_left, caller=caller)
        return await self.classify_on(granted, request)

    async def classify_on(self, granted: Granted, request: pb.ClassifyRequest) -> pb.ClassifyResponse:
        """The same on what is granted already; its lease is given back."""
        with granted.lease as lease:
            judging.refuse_texts(request.texts, request.top)
            engine, digest = lease.engine, lease.adapter_digest
            facts = engine.head(digest)
            if facts is None:
                raise judging.not_a_classifier(request.model)
            rows = await offload(engine.encode_for_head, list(request.texts), facts)
            lengths = [len(row) for row in rows]
            judging.refuse_lengths(lengths, granted.context_tokens)
            judged: dict[int, list[float]] = {}
            for places in judging.passes(lengths, virtual_tokens=engine.virtual_tokens(digest)):
                lease.call.raise_if_cut()
                found = await offload(engine.judge, [rows[place] for place in places], digest)
                judged.update(zip(places, found, strict=True))
        self._answers.count_read(sum(lengths))
        return pb.ClassifyResponse(
            identity=words.from_identity(granted.identity),
            classifications=[words.classification(judged[place], facts, request.top) for place in range(len(rows))],
            usage=words.usage(sum(lengths), 0),
        )

    async def _scored_text(self, request: pb.ScoreRequest, granted: Granted) -> AnswerTokens:
        engine, path = granted.lease.engine, "text"
        match request.WhichOneof("input"):
            case "conversation":
                path = "conversation.messages"
                messages = words.to_messages(request.conversation.messages, path)
                inputs.refuse_unanswered(messages, path)
                text = await offload(engine.encode_answer, messages)
            case "text":
                text = await offload(_prompt_and_text, engine, request.text.prompt, request.text.text)
            case "tokens":
                path = "tokens.ids"
                inputs.refuse_unknown_ids(request.tokens.ids, engine.facts.vocabulary_tokens, path)
                text = AnswerTokens(list(request.tokens.ids), 1)
            case _:
                raise inputs.missing_input(path)
        inputs.refuse_unscorable(text, path)
        inputs.refuse_long(len(text.token_ids), granted.context_tokens, path)
        return text


async def _rows(engine: Engine, request: pb.EmbedRequest) -> list[list[int]]:
    if not request.tokens:
        return await offload(engine.encode_plain, list(request.texts))
    for place, row in enumerate(request.tokens):
        inputs.refuse_unknown_ids(row.ids, engine.facts.vocabulary_tokens, f"tokens[{place}].ids")
    return [list(row.ids) for row in request.tokens]


def _prompt_and_text(engine: Engine, prompt: str, text: str) -> AnswerTokens:
    """Each becomes tokens for itself, so that a text has the tokens that a model would say it in."""
    before, scored = engine.encode_pieces([prompt, text])
    return AnswerTokens([*before, *scored], max(1, len(before)))


def _cancel(future: Future[Any]) -> None:
    future.cancel()
