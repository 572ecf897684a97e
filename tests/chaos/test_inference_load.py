"""Mixed traffic on a serving process for minutes: kill -9, swaps of versions, slow and vanishing clients.

Half of the time the process is killed again and again; the other half it is not, and its memory is watched. Every
answer must be the known one of the version that it names, every refusal must say why, and when to come again where that
helps; nobody is left without either.

`FEINSCHLIFF_CHAOS_LOAD_SECONDS` sets how long, `FEINSCHLIFF_CHAOS_SEED` repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import psutil
import pytest

from feinschliff.artifacts.s3 import S3Store
from feinschliff.kit.errors import Refusal, from_rpc_error
from feinschliff.v1 import inference_pb2 as pb
from feinschliff.v1 import inference_pb2_grpc
from tests.contract.inference.adapters import make_adapter
from tests.contract.inference.site import PARENT, Site, chat_request, text_of
from tests.support.processes import RoomProcess, room_process
from tests.support.s3 import S3Server
from tests.support.waiting import eventually_async

SECONDS = float(os.environ.get("FEINSCHLIFF_CHAOS_LOAD_SECONDS", "300"))
SEED = int(os.environ.get("FEINSCHLIFF_CHAOS_SEED", time.time_ns() % 2**31))
CLIENTS = 24
VERSIONS = 4
STUCK_SECONDS = 60.0
KILL_EVERY_SECONDS = 12.0
SWAP_EVERY_SECONDS = 1.5
SAMPLES = 15
GROWTH_MIB_MAX = 30.0
"""Of memory from the second to the last third of the calm half, which begins once all versions are loaded again."""
LOADED_SECONDS = 120.0

WITH_DELAY = {"QUEUE_FULL", "MODEL_LOADING", "SERVER_STOPPING", "ENGINE_CLOSED"}
FINE = WITH_DELAY | {"MODEL_NOT_LOADED", "DEADLINE_EXCEEDED"}
WHILE_KILLED = {"SERVICE_UNREACHABLE", "STATUS_WITHOUT_REASON"}

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(int(SECONDS) + 420)]


class Crowd:
    """Clients of one process, and what they were told."""

    def __init__(self, site: Site, process: RoomProcess, versions: list[str], known: dict[str, str]) -> None:
        self._site = site
        self._process = process
        self._versions = versions
        self._known = known  # the answer of each version, by its digest
        self._dice = random.Random(SEED)
        self.is_over = False
        self.told: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.killed_at = 0.0
        self._channel = grpc.aio.insecure_channel(process.address)
        self._chats = inference_pb2_grpc.InferenceServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def client(self) -> None:
        ways: list[Callable[[], Awaitable[None]]] = [self._whole, self._whole, self._stream, self._vanish, self._hurry]
        while not self.is_over:
            asked = time.monotonic()
            try:
                await asyncio.wait_for(self._dice.choice(ways)(), STUCK_SECONDS)
            except TimeoutError:
                self.wrong.append("a call that got neither answer nor refusal")
            except grpc.RpcError as error:
                self._refused(from_rpc_error(error), asked)
                await asyncio.sleep(0.05)

    async def is_loaded(self) -> bool:
        """Whether every version answers; a process that begins grows by what it loads."""
        try:
            for version in self._versions:
                await self._site.chat(version)
        except Refusal:
            return False
        return True

    async def _whole(self) -> None:
        answer = await self._chats.Chat(chat_request(self._model()), timeout=STUCK_SECONDS)
        self._answered(answer.identity.adapter_digest, text_of(answer))

    async def _stream(self) -> None:
        """A client that reads slowly."""
        call = self._chats.ChatStream(pb.ChatStreamRequest(chat=chat_request(self._model())), timeout=STUCK_SECONDS)
        digest, text, ended = "", "", False
        async for event in call:
            digest = event.identity.adapter_digest if event.HasField("identity") else digest
            text += event.delta.text
            ended |= event.HasField("end")
            await asyncio.sleep(self._dice.uniform(0, 0.1))
        if not ended:
            self.wrong.append("a stream without an end")
        self._answered(digest, text)

    async def _vanish(self) -> None:
        long = chat_request(self._model(), max_tokens=400)
        call = self._chats.ChatStream(pb.ChatStreamRequest(chat=long), timeout=STUCK_SECONDS)
        async for _ in call:
            if self._dice.random() < 0.3:
                break
        call.cancel()
        self.told["left"] += 1

    async def _hurry(self) -> None:
        """A client whose patience is short."""
        await self._chats.Chat(chat_request(self._model(), max_tokens=400), timeout=self._dice.uniform(0.01, 1))
        self.told["answered in time"] += 1

    def _model(self) -> str:
        return self._dice.choice([*self._versions, f"{PARENT}/deployments/d", f"{PARENT}/models/m@live"])

    def _answered(self, digest: str, text: str) -> None:
        self.told["answered"] += 1
        if self._known.get(digest) != text:
            self.wrong.append(f"{digest} said {text!r}")

    def _refused(self, refusal: Refusal, asked: float) -> None:
        self.told[refusal.reason] += 1
        was_killed = asked - 5 <= self.killed_at + 8
        if refusal.reason not in FINE | (WHILE_KILLED if was_killed else set()):
            self.wrong.append(f"refused: {refusal.reason}: {refusal.message}")
        if refusal.reason in WITH_DELAY and refusal.retry_after_seconds is None:
            self.wrong.append(f"{refusal.reason} without a delay")


@pytest.fixture
async def crowd(
    tmp_path: Path,
    tiny_model: Path,
    s3_server: S3Server,
    s3_bucket: str,
    s3_store: S3Store,
    free_port: Callable[[], int],
) -> AsyncIterator[Crowd]:
    site, port = Site(tmp_path, tiny_model, s3_store), free_port()
    environment = {
        **s3_server.environment(s3_bucket),
        "FEINSCHLIFF_HOME": str(tmp_path / "home"),
        "FEINSCHLIFF_INFERENCE_PORT": str(port),
        "FEINSCHLIFF_INFERENCE_METRICS_PORT": str(free_port()),
        "FEINSCHLIFF_REGISTRY_ADDRESS": await site.start_registry(),
        "FEINSCHLIFF_INFERENCE_ALIAS_SECONDS": "0",
        "FEINSCHLIFF_INFERENCE_ROWS_MAX": "8",
        "FEINSCHLIFF_INFERENCE_QUEUE_MAX": "8",
        "FEINSCHLIFF_DRAIN_SECONDS": "0.2",
        "FEINSCHLIFF_OFFLINE": "true",
    }
    process = room_process("inference", port, environment, tmp_path)
    process.start_and_wait()
    folders = [make_adapter(tiny_model, tmp_path / f"v{n}", seed=n, rank=2 + n) for n in range(1, VERSIONS + 1)]
    versions = [site.register(folder, number) for number, folder in enumerate(folders, 1)]
    site.registry.aliases[f"{PARENT}/models/m@live"] = versions[0]
    async with grpc.aio.insecure_channel(process.address) as channel:
        site.chats = inference_pb2_grpc.InferenceServiceStub(channel)
        site.deployments = inference_pb2_grpc.DeploymentServiceStub(channel)
        routes = {f"r{number}": version for number, version in enumerate(versions)}
        await site.create(routes={**routes, "live": f"{PARENT}/models/m@live"}, on_demand=True, wait=False)
        await site.wait_for("d", pb.Deployment.STATE_READY, seconds=LOADED_SECONDS)
        known = {site.digest_of(version): text_of(await site.chat(version)) for version in versions}
        made = Crowd(site, process, versions, known)
        yield made
        await made.close()
    process.close()
    await site.close()


async def test_minutes_of_mixed_traffic(crowd: Crowd) -> None:
    site, process, dice = crowd._site, crowd._process, random.Random(SEED + 1)
    print(f"FEINSCHLIFF_CHAOS_SEED={SEED}")
    assert len(set(crowd._known.values())) == VERSIONS, "answers tell versions apart"
    clients = [asyncio.ensure_future(crowd.client()) for _ in range(CLIENTS)]

    async def swap() -> None:
        while not crowd.is_over:
            await asyncio.sleep(dice.uniform(0, 2 * SWAP_EVERY_SECONDS))
            site.registry.aliases[f"{PARENT}/models/m@live"] = dice.choice(crowd._versions)

    swapper = asyncio.ensure_future(swap())
    half = time.monotonic() + SECONDS / 2
    kills = 0
    while time.monotonic() < half:
        await asyncio.sleep(dice.uniform(0.5, 1.5) * KILL_EVERY_SECONDS)
        process.kill()
        crowd.killed_at = time.monotonic()
        await asyncio.to_thread(process.restart)
        crowd.killed_at = time.monotonic()
        kills += 1
    await eventually_async(crowd.is_loaded, LOADED_SECONDS, "all versions to answer after the last kill")
    memory = []
    for _ in range(SAMPLES):
        await asyncio.sleep(SECONDS / 2 / SAMPLES)
        memory.append(round(_memory_mib(process)))
    crowd.is_over = True
    await asyncio.gather(*clients, swapper)
    print(f"kills={kills} memory={memory} MiB told={dict(crowd.told)}")

    async def idle() -> bool:
        state = await site.deployments.GetReplicaState(pb.GetReplicaStateRequest(name=f"{PARENT}/deployments/d"))
        return all(one.running_calls == one.waiting_calls == 0 for one in state.replicas)

    await eventually_async(idle, 30, "all places to be free")
    assert Counter(crowd.wrong) == {}
    middle, last = memory[SAMPLES // 3 : 2 * SAMPLES // 3], memory[2 * SAMPLES // 3 :]
    assert max(last) - max(middle) < GROWTH_MIB_MAX
    assert kills > 1
    assert min(crowd.told["answered"], crowd.told["left"]) > 20 * kills
    assert crowd.told["QUEUE_FULL"] > 0


def _memory_mib(process: RoomProcess) -> float:
    return psutil.Process(process.pid).memory_info().rss / 2**20
