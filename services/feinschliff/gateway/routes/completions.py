"""`/v1/completions`: texts continued as they are, whole or as a stream; several prompts at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import JsonValue

from feinschliff.gateway import ids
from feinschliff.gateway.answers import DONE, finish_of, identity_headers, usage_of
from feinschliff.gateway.bodies import read_json, reply
from feinschliff.gateway.completing import (
    STREAMS_MAX,
    CompletionBody,
    TextEnvelope,
    TextLikelihoods,
    param_of,
    sum_of,
    text_choice,
)
from feinschliff.gateway.errors import SERVER, ApiError, answering, from_refusal, no_model
from feinschliff.gateway.models import Target
from feinschliff.gateway.routes.chat import broken
from feinschliff.gateway.state import Here, Project, State, refuse_skipping
from feinschliff.gateway.streams import data_event, event_stream, while_connected
from feinschliff.kit.errors import from_rpc_error
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    StreamCall = grpc.aio.UnaryStreamCall[pb.CompleteStreamRequest, pb.CompleteStreamResponse]

T = TypeVar("T")
router = APIRouter()


class Begun(NamedTuple):
    """The stream of one prompt whose first piece, or whose end, is there."""

    place: int
    call: StreamCall
    identity: common_pb2.Identity
    first: pb.CompleteStreamResponse


class Piece(NamedTuple):
    """More of one prompt's continuation; None where that has ended."""

    place: int
    response: pb.CompleteStreamResponse | None


@router.post("/v1/completions")
async def create(request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, CompletionBody, bytes_max=here.settings.gateway_body_bytes_max)
    body.check_served()
    refuse_skipping(request, body.skip_guards)
    envelope = TextEnvelope(ids.new_text_completion_id(), int(here.clock.now().timestamp()), body.model)
    if body.stream:
        begun = await while_connected(request, _begin(here, project, body, envelope.id))
        events = _events(here, envelope, begun, body)
        return event_stream(events, headers=identity_headers(begun[0].identity))
    answers = await while_connected(request, _answers(here, project, body, envelope.id))
    told = envelope.completion(answers, logprobs=body.logprobs is not None)
    return reply(told, headers=identity_headers(answers[0].identity))


async def _answers(here: State, project: str, body: CompletionBody, answer_id: str) -> list[pb.CompleteResponse]:
    target = await here.models.resolve(project, body.model)
    asked, places = body.to_requests(target.model, ids.project_name(project), answer_id), asyncio.Semaphore(STREAMS_MAX)

    async def answer(place: int, wanted: pb.CompleteRequest) -> pb.CompleteResponse:
        async def ask() -> pb.CompleteResponse:
            return await here.clients.inference.Complete(wanted, timeout=here.settings.gateway_answer_seconds)

        refused = answering(missing=no_model(body.model), param_of=param_of(place, len(asked)))
        async with places:
            with refused:
                return await here.loader.served(project, target, ask)

    return await together([answer(place, wanted) for place, wanted in enumerate(asked)])


async def _begin(here: State, project: str, body: CompletionBody, answer_id: str) -> list[Begun]:
    target = await here.models.resolve(project, body.model)
    asked, calls = body.to_requests(target.model, ids.project_name(project), answer_id), list[Begun]()

    async def begin(place: int, wanted: pb.CompleteRequest) -> None:
        with answering(missing=no_model(body.model), param_of=param_of(place, len(asked))):
            calls.append(await _begun(here, project, target, place, wanted))

    try:
        await together([begin(place, wanted) for place, wanted in enumerate(asked)])
    except BaseException:
        for one in calls:
            one.call.cancel()
        raise
    return sorted(calls, key=lambda one: one.place)


async def _begun(here: State, project: str, target: Target, place: int, wanted: pb.CompleteRequest) -> Begun:
    async def ask() -> Begun:
        request = pb.CompleteStreamRequest(complete=wanted)
        call = here.clients.inference.CompleteStream(request, timeout=here.settings.gateway_answer_seconds)
        return await _first_piece(place, call)

    return await here.loader.served(project, target, ask)


async def _first_piece(place: int, call: StreamCall) -> Begun:
    """Waits for the first piece: until then, what goes wrong is an ordinary HTTP error."""
    identity = common_pb2.Identity()
    try:
        async for response in call:
            if response.WhichOneof("event") == "identity":
                identity = response.identity
                continue
            return Begun(place, call, identity, response)
    except BaseException:
        call.cancel()
        raise
    raise ApiError(500, "The model ended without an answer.", type=SERVER, code="no_answer")


async def _events(
    here: State, envelope: TextEnvelope, begun: Sequence[Begun], body: CompletionBody
) -> AsyncIterator[bytes]:
    sent, usages = here.metrics.counter("feinschliff_gateway_stream_chunks_total"), list[common_pb2.TokenUsage]()
    unsaid = {"usage": None} if body.include_usage else {}
    likely: defaultdict[int, TextLikelihoods] = defaultdict(TextLikelihoods)
    try:
        async with aclosing(_merged(begun)) as pieces:
            async for place, response in pieces:
                if response.WhichOneof("event") == "end":
                    usages.append(response.end.usage)
                    continue
                delta, index = response.delta, place * body.choices + response.delta.index
                finish = finish_of(delta.finish_reason) if delta.finish_reason else None
                logprobs: JsonValue = None
                if body.logprobs is not None:
                    told = (delta.text, delta.logprobs, delta.prompt_logprobs)
                    logprobs = likely[index].push(*told, is_last=finish is not None)
                choice = text_choice(index, delta.text, finish, logprobs)
                yield data_event(orjson.dumps(envelope.of([choice], begun[place].identity) | unsaid))
                sent.inc()
        if len(usages) < len(begun):
            raise ApiError(
                500, "The answer broke off before its end. Ask again.", type=SERVER, code="answer_incomplete"
            )
        if body.include_usage:
            yield data_event(orjson.dumps(envelope.of([], begun[0].identity) | {"usage": usage_of(sum_of(usages))}))
        yield DONE
    except grpc.RpcError as error:
        yield broken(from_refusal(from_rpc_error(error)))
    except ApiError as error:
        yield broken(error)
    finally:
        for one in begun:
            one.call.cancel()


async def _merged(begun: Sequence[Begun]) -> AsyncGenerator[tuple[int, pb.CompleteStreamResponse]]:
    """Pieces of all streams as they come, those of each in its order; what one fails with ends all."""
    pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue(maxsize=len(begun))

    async def pour(one: Begun) -> None:
        try:
            await pieces.put(Piece(one.place, one.first))
            async for response in one.call:
                await pieces.put(Piece(one.place, response))
            await pieces.put(Piece(one.place, None))
        except grpc.RpcError as error:
            await pieces.put(error)

    pouring, open_streams = [asyncio.ensure_future(pour(one)) for one in begun], len(begun)
    try:
        while open_streams:
            piece = await pieces.get()
            if isinstance(piece, BaseException):
                raise piece
            if piece.response is None:
                open_streams -= 1
            else:
                yield piece.place, piece.response
    finally:
        for task in pouring:
            task.cancel()


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
