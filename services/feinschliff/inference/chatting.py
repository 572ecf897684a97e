"""One call's answers on their way: events of the engine in, the API's deltas out, and what they sum up to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

from feinschliff.inference import conversation as words
from feinschliff.inference.answers import Answers
from feinschliff.inference.engine import Done, GenerationRequest
from feinschliff.inference.models import Granted
from feinschliff.inference.several import Piece, several
from feinschliff.inference.spelling import Speller
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb


class Prepared(NamedTuple):
    """A chat that may begin: one request for each answer."""

    granted: Granted
    requests: Sequence[GenerationRequest]


class Chatting:
    """A chat that runs."""

    def __init__(self, prepared: Prepared, answers: Answers) -> None:
        self._prepared = prepared
        self._answers = answers
        self._completion_tokens = 0
        decode = partial(prepared.granted.lease.engine.decode, skip_special_tokens=False)
        self._spellers = [
            Speller(request.prompt_ids, decode) if request.logprobs is not None else None
            for request in prepared.requests
        ]

    @property
    def usage(self) -> common_pb2.TokenUsage:
        """Of the answers that have ended; the prompt counts once."""
        return words.usage(len(self._prepared.requests[0].prompt_ids), self._completion_tokens)

    async def deltas(self) -> AsyncGenerator[pb.ChatDelta]:
        """The answers as they grow; the last delta of each says why it ended. Raises as `several`."""
        granted, requests = self._prepared
        async with aclosing(several(self._answers, granted.lease, requests)) as pieces:
            async for piece in pieces:
                delta = self._delta(piece)
                if delta.text or delta.logprobs or delta.finish_reason:
                    yield delta

    def _delta(self, piece: Piece) -> pb.ChatDelta:
        number, event = piece
        delta = pb.ChatDelta(index=number, text=event.text)
        speller = self._spellers[number]
        if speller is not None and event.score is not None:
            delta.logprobs.append(speller.spell(event.score))
        if isinstance(event, Done):
            self._completion_tokens += event.completion_tokens
            delta.finish_reason = words.finish_reason(event.finish)
        return delta


async def gathered(deltas: AsyncIterator[pb.ChatDelta]) -> list[pb.ChatChoice]:
    """The whole answers that deltas make, by number."""
    found: dict[int, list[pb.ChatDelta]] = {}
    async for delta in deltas:
        found.setdefault(delta.index, []).append(delta)
    return [_choice(index, found[index]) for index in sorted(found)]


def _choice(index: int, deltas: Sequence[pb.ChatDelta]) -> pb.ChatChoice:
    text = "".join(delta.text for delta in deltas)
    return pb.ChatChoice(
        index=index,
        message=common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, parts=[common_pb2.Part(text=text)]),
        finish_reason=deltas[-1].finish_reason,
        logprobs=[logprob for delta in deltas for logprob in delta.logprobs],
    )
