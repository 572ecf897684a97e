"""The one chain around every call of every server: trace, metrics, log, refusal to status, fields, deadline."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast

import grpc

from feinschliff.kit import layers
from feinschliff.kit.errors import Unavailable, Unserved
from feinschliff.kit.layers import Call, Context
from feinschliff.kit.metrics import Metrics

Behavior = Callable[[Any, Context], Any]
if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]


class Chain(grpc.aio.ServerInterceptor):
    """Wraps every handler of one server, for all four kinds of call.

    Args:
        call_timeout_seconds: deadline of a unary call that brings none.
        standing: paths such as `/package.Service/Method` of calls that go on until their client leaves, beside those
            named Watch...; they are ended when the server stops, and their duration is not measured.
    """

    def __init__(self, metrics: Metrics, *, call_timeout_seconds: float, standing: Collection[str] = ()) -> None:
        self._metrics = metrics
        self._call_timeout_seconds = call_timeout_seconds
        self._standing_methods = frozenset(standing)
        self._standing: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        self._running = 0

    @property
    def is_busy(self) -> bool:
        """Whether calls run that end by themselves."""
        return self._running > 0

    def stop(self) -> None:
        """Refuses new calls, and ends those that would never end by themselves, so that their clients go elsewhere."""
        self._is_stopping = True
        for task in self._standing:
            task.cancel()

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler":
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(
                self._answering("/unknown/unknown", "unary", _unknown(method), one_request(bytes))
            )
        return self._wrapped(handler, method)

    def _wrapped(self, handler: "Handler", method: str) -> "Handler":
        read: Callable[[bytes], Any] = handler.request_deserializer or bytes
        encode = handler.response_serializer
        behavior = cast(
            Behavior, handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream
        )
        requests = many_requests(read) if handler.request_streaming else one_request(read)
        if handler.unary_unary:
            answer = self._answering(method, "unary", behavior, requests)
            return grpc.unary_unary_rpc_method_handler(answer, response_serializer=encode)
        if handler.stream_unary:
            answer = self._answering(method, "client_stream", behavior, requests)
            return grpc.stream_unary_rpc_method_handler(answer, response_serializer=encode)
        if handler.unary_stream:
            pour = self._pouring(method, "server_stream", behavior, requests)
            return grpc.unary_stream_rpc_method_handler(pour, response_serializer=encode)
        pour = self._pouring(method, "bidi_stream", behavior, requests)
        return grpc.stream_stream_rpc_method_handler(pour, response_serializer=encode)

    def _answering(
        self, method: str, kind: str, behavior: Behavior, requests: "Requests"
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(raw: Any, context: Context) -> Any:
            call = self._call(method, kind, context)
            async with self._layers(call):
                result = behavior(requests(call, raw), context)
                response = await result if inspect.isawaitable(result) else result
                await layers.greet(call)
                call.count_sent()
                return response

        return answer

    def _pouring(
        self, method: str, kind: str, behavior: Behavior, requests: "Requests"
    ) -> Callable[[Any, Context], Awaitable[None]]:
        async def pour(raw: Any, context: Context) -> None:
            call = self._call(method, kind, context)
            async with self._layers(call):
                result = behavior(requests(call, raw), context)
                if inspect.isasyncgen(result):
                    await _send_all(call, cast(AsyncGenerator[Any], result))
                else:
                    await result

        return pour

    def _call(self, method: str, kind: str, context: Context) -> Call:
        is_standing = layers.is_watch(method) or method in self._standing_methods
        return Call(method, kind, context, self._metrics, is_standing=is_standing)

    @asynccontextmanager
    async def _layers(self, call: Call) -> AsyncIterator[None]:
        default_seconds = self._call_timeout_seconds if call.kind == "unary" else None
        with layers.traced(call), layers.measured(call), layers.logged(call):
            async with layers.refusing(call):
                if self._is_stopping and not call.is_infrastructure:
                    raise _stopping()
                with self._ends_with_server() if call.is_standing else self._counted():
                    async with layers.deadline(call, default_seconds):
                        yield

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    @contextmanager
    def _ends_with_server(self) -> Iterator[None]:
        task = asyncio.current_task()
        if self._is_stopping or task is None:
            raise _stopping()
        self._standing.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
            task.uncancel()
            raise _stopping() from None
        finally:
            self._standing.discard(task)


async def _send_all(call: Call, responses: AsyncGenerator[Any]) -> None:
    async with aclosing(responses):
        async for response in responses:
            await layers.greet(call)
            await call.context.write(response)
            call.count_sent()
    await layers.greet(call)


Requests = Callable[[Call, Any], Any]


def one_request(read: Callable[[bytes], Any]) -> Requests:
    def take(call: Call, raw: bytes) -> Any:
        return layers.received(call, layers.decoded(read, raw))

    return take


def many_requests(read: Callable[[bytes], Any]) -> Requests:
    async def take(call: Call, raws: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        is_first = True
        async for raw in raws:
            message = layers.decoded(read, raw)
            yield layers.received(call, message) if is_first else layers.received_later(call, message)
            is_first = False
        await layers.still_there(call)

    return take


def _unknown(method: str) -> Behavior:
    def refuse(request: bytes, context: Context) -> bytes:
        raise Unserved(
            "METHOD_UNSERVED",
            f"This service has no method {method[:200]}.",
            advice=["Ask server reflection what is here; the address may be another service's."],
            method=method[:200],
        )

    return refuse


def _stopping() -> Unavailable:
    message = "This server shuts down; call again, or go on from your last cursor, and another one answers."
    return Unavailable("SERVER_STOPPING", message, retry_after_seconds=1)
