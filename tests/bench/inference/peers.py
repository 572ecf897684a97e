"""Those that we are held against: libraries as programs of their own, and a server that is asked as ours is."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from tests.bench.environments import Environment, Failed, python_of
from tests.bench.inference.measured import Measured, Stream, measured
from tests.bench.inference.prompts import ANSWER_TOKENS
from tests.support.ports import free_port

HERE = Path(__file__).parent
_LEFT_OUT = ("TESTS", "TOOLS", "EXAMPLES", "SERVER")  # of llama.cpp: most of what would be compiled
LLAMA_CPP = Environment(
    "llamacpp",
    ("llama-cpp-python",),
    variables=(
        ("CMAKE_ARGS", " ".join(["-DGGML_NATIVE=ON", *(f"-DLLAMA_BUILD_{one}=OFF" for one in _LEFT_OUT)])),
        ("CMAKE_BUILD_PARALLEL_LEVEL", "2"),
    ),
)
RUN_SECONDS_MAX = 900.0
START_SECONDS_MAX = 180.0


def generate(base: Path, prompts: Path, precision: str, rounds: int) -> list[Measured]:
    """`generate` of transformers, the whole batch at once.

    Raises:
        Failed
    """
    command = [sys.executable, str(HERE / "peer_generate.py"), "--base", str(base), "--precision", precision]
    return _program([*command, "--prompts", str(prompts)], rounds)


def llama_cpp(gguf: Path, prompts: Path, rounds: int, environments: Path) -> list[Measured]:
    """llama.cpp in F16, made from a file of another form: right for speed, not for quality. It is compiled once.

    Raises:
        Failed
    """
    python = python_of(LLAMA_CPP, environments)
    f16 = environments / LLAMA_CPP.name / f"{gguf.stem}.f16.gguf"
    command = [str(python), str(HERE / "peer_llamacpp.py"), "--gguf", str(gguf), "--f16", str(f16)]
    return _program([*command, "--prompts", str(prompts)], rounds)


class Serve:
    """`transformers serve` on loopback, asked for streamed chats."""

    def __init__(self, base: Path, precision: str, log: Path, *, batching: bool) -> None:
        self._base = base
        self._port = free_port()
        dtype = {"bf16": "bfloat16", "fp32": "float32"}[precision]
        command = [str(Path(sys.executable).parent / "transformers"), "serve", str(base), "--dtype", dtype]
        command += ["--host", "127.0.0.1", "--port", str(self._port), "--device", "cpu"]
        if batching:
            command += ["--continuous-batching", "--cb-max-memory-percent", "0.2"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
        self._began = time.time()
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    def __enter__(self) -> Serve:
        while time.time() - self._began < START_SECONDS_MAX:
            try:
                if httpx.get(f"http://127.0.0.1:{self._port}/health", timeout=5).status_code == 200:
                    self.ready_seconds = time.time() - self._began
                    return self
            except httpx.HTTPError:
                time.sleep(0.2)
            if self._process.poll() is not None:
                break
        self.__exit__()
        raise Failed("`transformers serve` did not become ready")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, texts: Sequence[str]) -> Measured:
        """All at once."""
        streams = asyncio.run(self._ask(texts))
        rss = psutil.Process(self._process.pid).memory_info().rss / 2**20
        return measured(streams, rss_mib=rss, load_average=os.getloadavg()[0])

    async def _ask(self, texts: Sequence[str]) -> list[Stream]:
        async with httpx.AsyncClient(timeout=RUN_SECONDS_MAX, limits=httpx.Limits(max_connections=None)) as client:
            return list(await asyncio.gather(*(self._one(client, text) for text in texts)))

    async def _one(self, client: httpx.AsyncClient, text: str) -> Stream:
        body = {
            "model": str(self._base),
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0.0,
            "generation_config": json.dumps(
                {"do_sample": False, "max_new_tokens": ANSWER_TOKENS, "eos_token_id": None, "pad_token_id": 2}
            ),
        }
        asked = time.time()
        url = f"http://127.0.0.1:{self._port}/v1/chat/completions"
        async with client.stream("POST", url, json=body) as answer:
            if answer.status_code != 200:
                raise Failed(f"`transformers serve` answered {answer.status_code}: {(await answer.aread())[:300]!r}")
            pieces = [time.time() async for line in answer.aiter_lines() if _has_text(line)]
        return Stream(asked=asked, pieces=pieces, tokens=len(pieces))


def _has_text(line: str) -> bool:
    return line.startswith("data: {") and bool(json.loads(line[6:])["choices"][0]["delta"].get("content"))


def _program(command: Sequence[str], rounds: int) -> list[Measured]:
    """The rounds of a program that prints one line each, the first one being its warm-up."""
    command = [*command, "--answer", str(ANSWER_TOKENS), "--rounds", str(rounds)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, env=environment)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[1]} took more than {RUN_SECONDS_MAX:.0f} s") from error
    if done.returncode:
        raise Failed(f"{command[1]} failed: {done.stderr[-600:]}")
    found = []
    for line in [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")][1:]:
        one = Stream(asked=line["asked"], pieces=line["pieces"], tokens=len(line["pieces"]))
        found.append(measured([one] * line["rows"], rss_mib=line["rss"], load_average=os.getloadavg()[0]))
    return found
