"""One call's answers on their way: events of the engine in, the API's deltas out, and what they sum up to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import orjson

from feinschliff.formats.records import Message
from feinschliff.inference import conversation as words
from feinschliff.inference.answers import Answers, Held
from feinschliff.inference.dialects import Dialect
from feinschliff.inference.engine import Delta, Done, Finish, GenerationRequest
from feinschliff.inference.guards.guarding import Guarded
from feinschliff.inference.models import Granted
from feinschliff.inference.several import Piece, several
from feinschliff.inference.spelling import Speller
from feinschliff.inference.toolcalls import Arguments, Call, CallReader, Said, Text
from feinschliff.inference.tools import Toolbox
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

T = TypeVar("T")
CALL = "call_"
TOOL_CALLS = common_pb2.FINISH_REASON_TOOL_CALLS
_ID_MIN = 12  # characters that tell calls apart, where a name stands before them


class Prepared(NamedTuple):
    """A chat that may begin: one request for each answer; the dialect is that of its tools, where it has any.

    Attributes:
        masked: the conversation, where guards changed it.
    """

    granted: Granted
    guarded: Guarded
    requests: Sequence[GenerationRequest]
    box: Toolbox = Toolbox()
    dialect: Dialect | None = None
    masked: Sequence[Message] | None = None


class Chatting:
    """A chat that runs."""

    def __init__(self, prepared: Prepared, answers: Answers) -> None:
        self._prepared = prepared
        self._answers = answers
        self._completion_tokens = self._cached_tokens = 0
        decode = partial(prepared.granted.lease.engine.decode, skip_special_tokens=False)
        self._spellers = [
            Speller(request.prompt_ids, decode) if request.logprobs is not None else None
            for request in prepared.requests
        ]
        self._readers = [
            _Calls(prepared.box, prepared.dialect) if prepared.dialect else None for _ in prepared.requests
        ]

    @property
    def usage(self) -> common_pb2.TokenUsage:
        """Of the answers that have ended; the prompt counts once."""
        prompt_tokens = len(self._prepared.requests[0].prompt_ids)
        return words.usage(prompt_tokens, self._completion_tokens, self._cached_tokens)

    async def deltas(self) -> AsyncGenerator[pb.ChatDelta]:
        """The answers as they grow; the last delta of each says why it ended. Raises as `several`."""
        granted, requests = self._prepared.granted, self._prepared.requests
        async with aclosing(several(self._stream, granted.lease, requests)) as pieces:
            async for piece in pieces:
                for delta in self._deltas(piece):
                    yield delta

    def _stream(self, lease: Held, request: GenerationRequest) -> AsyncGenerator[Delta | Done]:
        return self._answers.counted(self._prepared.guarded.watch(self._answers.stream(lease, request)))

    def _deltas(self, piece: Piece) -> list[pb.ChatDelta]:
        number, event = piece
        reader, speller = self._readers[number], self._spellers[number]
        is_last = isinstance(event, Done)
        deltas = reader.deltas(event.text, is_last=is_last) if reader else _text(event.text)
        logprob = speller.spell(event.score) if speller is not None and event.score is not None else None
        if not deltas and (logprob or is_last):
            deltas = [pb.ChatDelta()]
        if logprob:
            deltas[0].logprobs.append(logprob)
        if isinstance(event, Done):
            self._completion_tokens += event.completion_tokens
            self._cached_tokens = event.cached_tokens if number == 0 else self._cached_tokens
            is_call = reader is not None and reader.has_calls and event.finish is Finish.STOP
            deltas[-1].finish_reason = TOOL_CALLS if is_call else words.finish_reason(event.finish)
        for delta in deltas:
            delta.index = number
        return deltas


class _Calls:
    """The text of one answer as deltas of text and of calls."""

    def __init__(self, box: Toolbox, dialect: Dialect) -> None:
        self._dialect = dialect
        self._reader = CallReader(dialect, box.names, single=box.single or box.mode == "function")

    @property
    def has_calls(self) -> bool:
        return self._reader.calls > 0

    def deltas(self, text: str, *, is_last: bool) -> list[pb.ChatDelta]:
        said = [*self._reader.push(text), *(self._reader.flush() if is_last else [])]
        return [self._delta(one) for one in said]

    def _delta(self, said: Said) -> pb.ChatDelta:
        match said:
            case Text(text):
                return pb.ChatDelta(text=text)
            case Call(number, name):
                begun = pb.ToolCallDelta(index=number, id=_call_id(self._dialect), name=name)
                return pb.ChatDelta(tool_call=begun)
            case Arguments(number, text):
                return pb.ChatDelta(tool_call=pb.ToolCallDelta(index=number, arguments_text=text))


def _call_id(dialect: Dialect) -> str:
    characters = dialect.id_characters
    drawn = secrets.token_hex(characters)[:characters]
    return drawn if characters < len(CALL) + _ID_MIN else CALL + drawn[len(CALL) :]


def _text(text: str) -> list[pb.ChatDelta]:
    return [pb.ChatDelta(text=text)] if text else []


@asynccontextmanager
async def begun(deltas: AsyncGenerator[T]) -> AsyncIterator[tuple[Awaitable[T | None], AsyncGenerator[T]]]:
    """The first delta, on its way, and the others: the work runs from here on, so that whoever leaves ends it.

    A generator that never began would not give back what it was handed. Raises what the beginning is refused with.
    """
    first = asyncio.ensure_future(anext(deltas, None))
    try:
        await asyncio.sleep(0)  # it has begun when this returns
        if first.done():
            first.result()
        yield first, deltas
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await deltas.aclose()


async def gathered(deltas: AsyncIterator[pb.ChatDelta]) -> list[pb.ChatChoice]:
    """The whole answers that deltas make, by number."""
    found: dict[int, list[pb.ChatDelta]] = {}
    async for delta in deltas:
        found.setdefault(delta.index, []).append(delta)
    return [_choice(index, found[index]) for index in sorted(found)]


def _choice(index: int, deltas: Sequence[pb.ChatDelta]) -> pb.ChatChoice:
    text = "".join(delta.text for delta in deltas)
    calls: dict[int, list[pb.ToolCallDelta]] = {}
    for delta in deltas:
        if delta.HasField("tool_call"):
            calls.setdefault(delta.tool_call.index, []).append(delta.tool_call)
    parts = [common_pb2.Part(text=text)] if text or not calls else []
    parts += [common_pb2.Part(tool_call=_call(calls[number])) for number in sorted(calls)]
    return pb.ChatChoice(
        index=index,
        message=common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, parts=parts),
        finish_reason=deltas[-1].finish_reason,
        logprobs=[logprob for delta in deltas for logprob in delta.logprobs],
    )


def _call(deltas: Sequence[pb.ToolCallDelta]) -> common_pb2.ToolCall:
    written = "".join(delta.arguments_text for delta in deltas)
    call = common_pb2.ToolCall(id=deltas[0].id, name=deltas[0].name)
    call.arguments.SetInParent()
    try:
        call.arguments.update(orjson.loads(written))
    except (ValueError, AttributeError, TypeError):  # no JSON, or none that is an object
        call.ClearField("arguments")
        call.invalid_arguments = written
    return call
