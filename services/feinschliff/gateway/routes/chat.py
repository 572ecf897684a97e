"""`/v1/chat/completions`: one answer, whole or as a stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

import grpc
import orjson
from fastapi import APIRouter, Request, Response

from feinschliff.gateway import ids
from feinschliff.gateway.answers import Envelope, Shape, chunks, identity_headers
from feinschliff.gateway.bodies import read_json, reply
from feinschliff.gateway.conversation import ChatBody, param_of
from feinschliff.gateway.errors import SERVER, ApiError, answering, from_refusal, no_model
from feinschliff.gateway.models import Target
from feinschliff.gateway.state import Here, Project, State, refuse_skipping
from feinschliff.gateway.streams import data_event, event_stream, while_connected
from feinschliff.kit.errors import from_rpc_error
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    StreamCall = grpc.aio.UnaryStreamCall[pb.ChatStreamRequest, pb.ChatStreamResponse]

log = logging.getLogger(__name__)
router = APIRouter()


class Begun(NamedTuple):
    """A stream whose first token, or whose end, is there."""

    call: StreamCall
    identity: common_pb2.Identity
    first: pb.ChatStreamResponse


@router.post("/v1/chat/completions")
async def create(request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, ChatBody, bytes_max=here.settings.gateway_body_bytes_max)
    body.check_served()
    refuse_skipping(request, body.skip_guards)
    envelope = Envelope(ids.new_completion_id(), int(here.clock.now().timestamp()), body.model)
    if body.stream:
        begun = await while_connected(request, _begin(here, project, body, envelope.id))
        events = _events(here, envelope, begun, body.shape)
        return event_stream(events, headers=identity_headers(begun.identity))
    answer = await while_connected(request, _answer(here, project, body, envelope.id))
    return reply(envelope.completion(answer, body.shape), headers=identity_headers(answer.identity))


async def _answer(here: State, project: str, body: ChatBody, answer_id: str) -> pb.ChatResponse:
    target = await here.models.resolve(project, body.model)
    asked = _request(project, body, target, answer_id)

    async def ask() -> pb.ChatResponse:
        return await here.clients.inference.Chat(asked, timeout=here.settings.gateway_answer_seconds)

    with answering(missing=no_model(body.model), param_of=param_of):
        return await here.loader.served(project, target, ask)


async def _begin(here: State, project: str, body: ChatBody, answer_id: str) -> Begun:
    target = await here.models.resolve(project, body.model)
    asked = pb.ChatStreamRequest(chat=_request(project, body, target, answer_id))

    async def ask() -> Begun:
        call = here.clients.inference.ChatStream(asked, timeout=here.settings.gateway_answer_seconds)
        return await _first_token(call)

    with answering(missing=no_model(body.model), param_of=param_of):
        return await here.loader.served(project, target, ask)


def _request(project: str, body: ChatBody, target: Target, answer_id: str) -> pb.ChatRequest:
    return body.to_request(target.model, ids.project_name(project), ids.completion_name(project, answer_id))


async def _first_token(call: StreamCall) -> Begun:
    """Waits for the first token: until then, what goes wrong is an ordinary HTTP error."""
    identity = common_pb2.Identity()
    try:
        async for response in call:
            if response.WhichOneof("event") == "identity":
                identity = response.identity
                continue
            return Begun(call, identity, response)
    except BaseException:
        call.cancel()
        raise
    raise ApiError(500, "The model ended without an answer.", type=SERVER, code="no_answer")


async def _events(here: State, envelope: Envelope, begun: Begun, shape: Shape) -> AsyncIterator[bytes]:
    sent = here.metrics.counter("feinschliff_gateway_stream_chunks_total")
    try:
        rest = aiter(begun.call)
        async for event in chunks(envelope, begun.first, rest, begun.identity, shape):
            yield event
            sent.inc()
    except grpc.RpcError as error:
        yield broken(from_refusal(from_rpc_error(error), param_of=param_of))
    except ApiError as error:
        yield broken(error)
    finally:
        begun.call.cancel()


def broken(error: ApiError) -> bytes:
    """What is left to say once the stream has begun; no `[DONE]` follows."""
    log.warning("stream broke off", extra={"code": error.code, "refusal": error.message})
    return data_event(orjson.dumps(error.body))
