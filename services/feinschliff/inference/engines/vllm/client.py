"""A vLLM server's routes over HTTP; for one event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import httpx
import orjson

from feinschliff.inference.engines.vllm import wire

_CALL_SECONDS = 10.0
_CONNECT_SECONDS = 5.0


class Lost(Exception):
    """The connection could not be made or broke, or the server says that its engine is dead."""


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, said: wire.Said) -> None:
        super().__init__(said.message)
        self.said = said


class Address(NamedTuple):
    """Where a server listens: a URL, and the Unix socket behind it for one of our own."""

    url: str
    socket: str = ""
    api_key: str = ""


class Model(NamedTuple):
    """What a server lists: `root` is the folder it read, `context_tokens` is 0 for an adapter."""

    name: str
    root: str
    context_tokens: int


class Client:
    """Every method raises Lost or Refused, or wire.Broken for what no vLLM says."""

    def __init__(self, address: Address) -> None:
        headers = {"Authorization": f"Bearer {address.api_key}"} if address.api_key else {}
        # A connection for each request: one that is kept may be closed by the server just as it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(
            base_url=address.url,
            headers=headers,
            transport=httpx.AsyncHTTPTransport(uds=address.socket or None, limits=limits),
            timeout=httpx.Timeout(_CALL_SECONDS, connect=_CONNECT_SECONDS),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def is_healthy(self) -> bool:
        """False while it starts and once its engine is dead."""
        try:
            return (await self._http.get("/health")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def version(self) -> tuple[int, ...]:
        return wire.read_version(await self._json("GET", "/version"))

    async def models(self) -> dict[str, Model]:
        said = await self._json("GET", "/v1/models")
        try:
            return {
                str(one["id"]): Model(str(one["id"]), str(one.get("root") or ""), int(one.get("max_model_len") or 0))
                for one in said["data"]
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise wire.Broken(f"its list of models is none of vLLM's: {str(said)[:200]}") from error

    async def load(self) -> wire.Load:
        with _naming_loss():
            answer = await self._http.get("/metrics", follow_redirects=True)
        return wire.read_load(answer.text) if answer.status_code == httpx.codes.OK else wire.Load()

    async def load_adapter(self, name: str, folder: str, *, timeout_seconds: float) -> None:
        await self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}, timeout_seconds)

    async def unload_adapter(self, name: str) -> None:
        await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, _CALL_SECONDS)

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer, however long it takes."""
        answer = await self._ask("POST", "/v1/completions", body, None)
        return _read(answer.content)

    @asynccontextmanager
    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[wire.Piece]]:
        """The pieces of an answer; leaving closes the connection, by which vLLM drops the request."""
        request = self._request("POST", "/v1/completions", body, None)
        with _naming_loss():
            answer = await self._http.send(request, stream=True)
        try:
            if answer.status_code != httpx.codes.OK:
                with _naming_loss():
                    _refuse(answer.status_code, await answer.aread())
            yield _pieces(answer)
        finally:
            await answer.aclose()

    async def _json(self, method: str, path: str) -> dict[str, Any]:
        return _read((await self._ask(method, path, None, _CALL_SECONDS)).content)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_seconds: float | None
    ) -> httpx.Response:
        with _naming_loss():
            answer = await self._http.send(self._request(method, path, body, timeout_seconds))
        if answer.status_code != httpx.codes.OK:
            _refuse(answer.status_code, answer.content)
        return answer

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_seconds: float | None
    ) -> httpx.Request:
        return self._http.build_request(
            method,
            path,
            content=None if body is None else orjson.dumps(body),
            headers={"Content-Type": "application/json"},
            timeout=httpx.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
        )


async def _pieces(answer: httpx.Response) -> AsyncIterator[wire.Piece]:
    with _naming_loss():
        async for line in answer.aiter_lines():
            piece = wire.read_event(line)
            if piece is not None:
                yield piece


@contextmanager
def _naming_loss() -> Iterator[None]:
    """What goes wrong on the way is a loss, whatever httpx calls it."""
    try:
        yield
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise Lost(f"{type(error).__name__} {error}".strip()) from error


def _refuse(status: int, body: bytes) -> None:
    said = wire.read_error(status, body)
    if status in (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT):
        raise Lost(said.message)
    raise Refused(said)


def _read(body: bytes) -> dict[str, Any]:
    try:
        said: dict[str, Any] = orjson.loads(body)
    except ValueError as error:
        raise wire.Broken(f"vLLM's answer is no JSON: {body[:200]!r}") from error
    if not isinstance(said, dict):
        raise wire.Broken(f"vLLM's answer is no object: {body[:200]!r}")
    return said
