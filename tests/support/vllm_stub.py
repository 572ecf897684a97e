"""A small HTTP server that speaks the routes of vLLM 0.31 which we use, with its words for errors.

It stands alone (no torch, nothing of ours), so that it starts at once as a process: `python -P vllm_stub.py serve
FOLDER ...` takes the options of `vllm serve`. What it says is a `Brain`'s; `Counting` needs no model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import orjson

Say = Callable[[int, dict[int, float]], None]  # a token, and log-probabilities: its own and the likeliest ones
End = Callable[[str], None]  # vLLM's finish_reason
RANK_MAX = 64
ACCEPTING_TURNS = 10


class Brain(Protocol):
    def begin(self, body: dict[str, Any], adapter: str, say: Say, end: End) -> Callable[[], None]:
        """Calls back from any thread; what it gives back aborts."""
        ...

    def score(self, token_ids: list[int], adapter: str, top: int) -> list[dict[int, float] | None]: ...

    def load(self, name: str, folder: Path) -> None: ...

    def unload(self, name: str) -> None: ...

    def cache_share(self) -> float: ...


class Counting:
    """Each token follows from the prompt, the adapter's files and the place, a token every few milliseconds."""

    SECONDS = 0.005

    def __init__(self) -> None:
        self._weights = {"": 0}

    def begin(self, body: dict[str, Any], adapter: str, say: Say, end: End) -> Callable[[], None]:
        over, first = threading.Event(), sum(body["prompt"]) + self._weights[adapter]  # which may be unloaded meanwhile

        def run() -> None:
            for place in range(body["max_tokens"]):
                if over.wait(self.SECONDS):
                    return
                token = 3 + (first + 7 * place) % 300
                say(token, {token: -0.5})
                if token in body["stop_token_ids"]:
                    end("stop")
                    return
            end("length")

        threading.Thread(target=run, daemon=True).start()
        return over.set

    def score(self, token_ids: list[int], adapter: str, top: int) -> list[dict[int, float] | None]:
        return [None, *({token: -0.5} for token in token_ids[1:])]

    def load(self, name: str, folder: Path) -> None:
        self._weights[name] = sum((folder / "adapter_model.safetensors").read_bytes()) % 300

    def unload(self, name: str) -> None:
        del self._weights[name]

    def cache_share(self) -> float:
        return 0.0


class Stub:
    """One server; `forget` and `crash` are what may happen to a real one."""

    def __init__(
        self,
        brain: Brain,
        name: str,
        *,
        root: str = "",
        context: int = 512,
        version: str = "0.31.0",
        updates: bool = True,
    ) -> None:
        self.brain, self.name, self.root, self.context, self.version = brain, name, root, context, version
        self.updates = updates
        self.adapters: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.running = self.aborted = 0
        self.is_dead = False
        self.listing: Any = None  # what it says of its models, where that is no vLLM's word
        self.refused: set[str] = set()  # adapters that it does not load
        self.changes: Callable[[dict[str, Any]], dict[str, Any]] = lambda event: event  # of what a stream says
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while request := await _read_request(reader):
                await self._answer(*request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    def crash(self) -> None:
        """Every connection breaks, and it knows no adapters when it comes again."""
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        self.forget()

    def forget(self) -> None:
        for name in list(self.adapters):
            self._unload(name)

    async def _answer(
        self, method: str, path: str, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.requests.append((path, body))
        if path == "/health":
            return await _send(writer, 503 if self.is_dead else 200, b"")
        if path == "/version":
            return await _send(writer, 200, {"version": self.version})
        if path in ("/metrics", "/metrics/"):
            return await _send(writer, 200, self._metrics().encode(), kind="text/plain")
        if path == "/v1/models":
            listing = {"object": "list", "data": self._models()} if self.listing is None else self.listing
            return await _send(writer, 200, listing)
        if path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter") and self.updates:
            change = self._load if path == "/v1/load_lora_adapter" else self._unload_request
            return await _send(writer, *await asyncio.to_thread(change, body))
        if (method, path) != ("POST", "/v1/completions"):
            return await _send(writer, 404, {"detail": "Not Found"})
        if problem := self._problem(body):
            return await _send(writer, *problem)
        adapter = body["model"] if body["model"] in self.adapters else ""
        if body.get("stream"):
            return await self._stream(body, adapter, reader, writer)
        return await _send(writer, 200, await asyncio.to_thread(self._whole, body, adapter))

    def _models(self) -> list[dict[str, Any]]:
        base = {"id": self.name, "object": "model", "root": self.root, "parent": None, "max_model_len": self.context}
        adapters = [
            {"id": name, "object": "model", "root": path, "parent": self.name} for name, path in self.adapters.items()
        ]
        return [base, *adapters]

    def _load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            said = f"The lora adapter '{name}' has already been loaded."
            wanted = "If you want to load the adapter in place, set 'load_inplace' to True."
            return _error(400, "InvalidUserInput", f"{said} {wanted}")
        if name in self.refused:
            return _error(500, "InternalServerError", "CUDA out of memory")
        config_path = Path(path) / "adapter_config.json"
        if not config_path.is_file():
            return _error(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
        config = orjson.loads(config_path.read_bytes())
        if config.get("use_dora"):
            return _error(500, "InternalServerError", "vLLM does not yet support DoRA.")
        if config["r"] > RANK_MAX:
            return _error(400, "BadRequestError", f"LoRA rank {config['r']} is greater than max_lora_rank {RANK_MAX}.")
        self.brain.load(name, Path(path))
        self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully.".encode()

    def _unload_request(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["lora_name"]
        if name not in self.adapters:
            return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        self._unload(name)
        return 200, f"Success: LoRA adapter '{name}' removed successfully.".encode()

    def _unload(self, name: str) -> None:
        del self.adapters[name]
        self.brain.unload(name)

    def _problem(self, body: dict[str, Any]) -> tuple[int, Any] | None:
        if body["model"] != self.name and body["model"] not in self.adapters:
            return _error(404, "NotFoundError", f"The model `{body['model']}` does not exist.", "model")
        tokens = len(body["prompt"]) + body["max_tokens"]
        if tokens > self.context:
            said = f"This model's maximum context length is {self.context} tokens. However, you requested {tokens}."
            return _error(400, "BadRequestError", said)
        if body.get("prompt_logprobs", 0) > 20 or body.get("logprobs", 0) > 20:
            return _error(400, "BadRequestError", "Requested sample logprobs of more than 20, which is the maximum.")
        return None

    def _whole(self, body: dict[str, Any], adapter: str) -> dict[str, Any]:
        found = self.brain.score(body["prompt"], adapter, body["prompt_logprobs"])
        logprobs = [
            {str(token): {"logprob": one, "rank": 1} for token, one in place.items()} if place else None
            for place in found
        ]
        choice = {"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": logprobs}
        return {"choices": [choice | {"prompt_token_ids": body["prompt"], "token_ids": [3]}], "usage": None}

    async def _stream(
        self, body: dict[str, Any], adapter: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        left = asyncio.create_task(reader.read(1))  # a client that sends nothing more can only leave
        self.running += 1
        try:
            async for event in self._events(body, adapter, left):
                await _chunk(writer, b"data: " + orjson.dumps(self.changes(event)) + b"\n\n")
            await _chunk(writer, b"data: [DONE]\n\n")
            await _chunk(writer, b"")
        finally:
            self.running -= 1
            left.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await left
        raise ConnectionResetError  # the read above may have eaten what came next

    async def _events(
        self, body: dict[str, Any], adapter: str, left: asyncio.Task[bytes]
    ) -> AsyncIterator[dict[str, Any]]:
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, dict[int, float]] | str]()

        def later(item: tuple[int, dict[int, float]] | str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(queue.put_nowait, item)

        abort = self.brain.begin(body, adapter, lambda token, found: later((token, found)), later)
        left.add_done_callback(lambda _: later("abort"))
        held: tuple[int, dict[int, float]] | None = None
        try:
            first = True
            while True:
                item = await queue.get()
                if isinstance(item, str) and item == "abort":
                    self.aborted += 1
                    raise ConnectionResetError
                if held is not None:
                    finish = item if isinstance(item, str) else None
                    yield _event(body, held, finish, body["prompt"] if first else None)
                    first = False
                if isinstance(item, str):
                    break
                held = item
            usage = {
                "prompt_tokens": len(body["prompt"]),
                "prompt_tokens_details": {"cached_tokens": len(body["prompt"]) // 2},
            }
            yield {"choices": [], "usage": usage}
        finally:
            abort()

    def _metrics(self) -> str:
        label = f'engine="0",model_name="{self.name}"'
        return "\n".join(
            [
                "# HELP vllm:num_requests_running Number of requests in model execution batches.",
                "# TYPE vllm:num_requests_running gauge",
                f"vllm:num_requests_running{{{label}}} {float(self.running)}",
                f"vllm:num_requests_waiting{{{label}}} 0.0",
                f"vllm:kv_cache_usage_perc{{{label}}} {self.brain.cache_share()}",
                'vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="1000",engine="0"} 1.0',
            ]
        )


def _event(
    body: dict[str, Any], said: tuple[int, dict[int, float]], finish: str | None, prompt: list[int] | None
) -> dict[str, Any]:
    token, found = said
    logprobs = None
    if body.get("logprobs") is not None:
        named = {f"token_id:{one}": logprob for one, logprob in found.items()}
        name = f"token_id:{token}"
        logprobs = {"tokens": [name], "token_logprobs": [named[name]], "top_logprobs": [named], "text_offset": [0]}
    stop = token if finish == "stop" else None
    choice = {"index": 0, "text": "", "logprobs": logprobs, "finish_reason": finish, "stop_reason": stop}
    return {"choices": [choice | {"token_ids": [token], "prompt_token_ids": prompt}], "usage": None}


def _error(status: int, kind: str, message: str, param: str | None = None) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": kind, "param": param, "code": status}}


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, Any]] | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return method, path.partition("?")[0], orjson.loads(body) if body else {}


async def _send(writer: asyncio.StreamWriter, status: int, body: Any, *, kind: str = "application/json") -> None:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


class Running:
    """A stub in a thread of its own, on a port of loopback that stays the same when it comes again."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        async def begin() -> None:
            self._server = await asyncio.start_server(self.stub.serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(30)

    def crash(self) -> None:
        async def crash() -> None:
            if self._server is not None:
                self._server.close()
            self.stub.crash()

        asyncio.run_coroutine_threadsafe(crash(), self._loop).result(30)

    def stop(self) -> None:
        for _ in range(ACCEPTING_TURNS):  # who was being accepted is there some turns of the loop later
            self.crash()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def main() -> None:
    """The options are those that we give `vllm serve`; another one ends it, as it would vLLM."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("serve", choices=["serve"])
    parser.add_argument("model")
    names = ["served-model-name", "uds", "gpu-memory-utilization", "max-loras", "max-lora-rank", "max-num-seqs"]
    for name in [*names, "max-logprobs", "logprobs-mode", "generation-config", "structured-outputs-config.backend"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dtype", required=True, choices=["float32", "bfloat16"])
    parser.add_argument("--max-model-len", type=int, default=512)
    for name in ("enable-lora", "enable-prompt-tokens-details", "disable-uvicorn-access-log"):
        parser.add_argument(f"--{name}", action="store_true", required=True)
    given = parser.parse_args()
    if not (Path(given.model) / "config.json").is_file():
        parser.error(f"no model at {given.model}")
    updates = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1"
    context, name = given.max_model_len, given.served_model_name
    stub = Stub(Counting(), name, root=given.model, context=context, updates=updates)

    async def serve() -> None:
        server = await asyncio.start_unix_server(stub.serve, given.uds)
        print(f"Starting vLLM server {os.getpid()}", flush=True)
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
