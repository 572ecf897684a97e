"""The calls about texts that are there already: how likely they are."""

from __future__ import annotations

import asyncio
import math
from functools import partial

from feinschliff.inference import conversation as words
from feinschliff.inference import inputs, judging
from feinschliff.inference.answers import Answers
from feinschliff.inference.engine import Engine
from feinschliff.inference.models import Granted, Models
from feinschliff.inference.scores import AnswerTokens, ScoringRequest
from feinschliff.inference.spelling import spelled
from feinschliff.kit.threads import offload
from feinschliff.v1 import inference_pb2 as pb


class Texts:
    """Scores texts."""

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
        granted = await self._models.grant(request.model, seconds_left=seconds_left)
        with granted.lease as lease:
            engine = lease.engine
            if facts := engine.head(lease.adapter_digest):
                raise judging.not_a_chat_model(request.model, facts)
            ids, first = await self._scored_text(request, granted)
            wanted = ScoringRequest(ids, first, lease.adapter_digest, request.top_logprobs)
            scores = await asyncio.wrap_future(engine.score(wanted))
            decode = partial(engine.decode, skip_special_tokens=False)
            logprobs = await offload(spelled, scores, ids[:first], decode)
        self._answers.count_read(len(ids))
        return pb.ScoreResponse(
            identity=words.from_identity(granted.identity),
            logprobs=logprobs,
            total_logprob=math.fsum(one.logprob for one in scores),
            usage=words.usage(len(ids), 0),
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


def _prompt_and_text(engine: Engine, prompt: str, text: str) -> AnswerTokens:
    """Each becomes tokens for itself, so that a text has the tokens that a model would say it in."""
    before = engine.encode_text(prompt) if prompt else []
    return AnswerTokens([*before, *engine.encode_text(text)], max(1, len(before)))
