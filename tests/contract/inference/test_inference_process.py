"""The room as a process of its own, with a real object store: starts light, survives kill -9, drains."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from feinschliff.artifacts.s3 import S3Store
from feinschliff.kit.errors import Refusal, Unavailable
from feinschliff.v1 import inference_pb2 as pb
from feinschliff.v1 import inference_pb2_grpc
from tests.contract.inference.site import LINGERING, Site, chat_request
from tests.support.processes import RoomProcess, room_process
from tests.support.s3 import S3Server
from tests.support.waiting import eventually_async

READY = pb.Deployment.STATE_READY


class Apart:
    """A site whose inference room runs in another process."""

    def __init__(self, site: Site, process: RoomProcess) -> None:
        self.site = site
        self.process = process

    async def connect(self) -> None:
        self.channel = grpc.aio.insecure_channel(self.process.address)
        self.site.chats = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.site.deployments = inference_pb2_grpc.DeploymentServiceStub(self.channel)

    async def start(self) -> None:
        self.process.start()
        await self.wait_serving()
        await self.connect()

    async def wait_serving(self) -> None:
        async def serving() -> bool:
            self.process.check_alive()
            return self.process.health() == "SERVING"

        await eventually_async(serving, 60, "SERVING")

    async def answer(self, model: str) -> pb.ChatResponse | None:
        try:
            return await self.site.chat(model)
        except Unavailable:
            return None


@pytest.fixture
async def apart(
    tmp_path: Path,
    tiny_model: Path,
    s3_server: S3Server,
    s3_bucket: str,
    s3_store: S3Store,
    free_port: Callable[[], int],
) -> AsyncIterator[Apart]:
    site = Site(tmp_path, tiny_model, s3_store)
    port = free_port()
    environment = {
        **s3_server.environment(s3_bucket),
        "FEINSCHLIFF_HOME": str(tmp_path / "home"),
        "FEINSCHLIFF_INFERENCE_PORT": str(port),
        "FEINSCHLIFF_INFERENCE_METRICS_PORT": str(free_port()),
        "FEINSCHLIFF_REGISTRY_ADDRESS": await site.start_registry(),
        "FEINSCHLIFF_DRAIN_SECONDS": "0.2",
        "FEINSCHLIFF_INFERENCE_LOOKUP_TOKENS_MAX": "0",  # a long answer takes its time
        "FEINSCHLIFF_OFFLINE": "true",
    }
    made = Apart(site, room_process("inference", port, environment, tmp_path, is_forked=True))
    yield made
    made.process.close()
    await site.close()


async def test_kill_9_in_the_middle_of_an_answer_loads_all_again(apart: Apart, adapters: dict[str, Path]) -> None:
    await apart.start()
    maps = Path(f"/proc/{apart.process.pid}/maps")
    assert "libtorch" not in maps.read_text()
    version = apart.site.register(adapters["one"])
    await apart.site.create(routes={"a": version})
    before = await apart.site.chat(version)
    call = apart.site.chats.ChatStream(pb.ChatStreamRequest(chat=chat_request(version, **LINGERING)))
    await call.read()
    apart.process.kill()
    await apart.channel.close()
    await apart.start()
    assert (await apart.site.get()).name
    after = await eventually_async(lambda: apart.answer(version), 60, "the version to be loaded again")
    assert after is not None
    assert (after.message, after.identity) == (before.message, before.identity)
    assert (await apart.site.wait_for("d", READY)).routes[0].adapter_digest == apart.site.digest_of(version)
    await apart.channel.close()


async def test_sigterm_lets_a_running_answer_end(apart: Apart) -> None:
    await apart.start()
    await apart.site.create()
    call = apart.site.chats.ChatStream(pb.ChatStreamRequest(chat=chat_request(apart.site.base, n=8, **LINGERING)))
    events = aiter(call)
    await anext(events)
    assert apart.process.running is not None
    apart.process.running.terminate()
    rest = [event async for event in events]
    assert rest[-1].end.usage.completion_tokens == 8 * LINGERING["max_tokens"]
    with pytest.raises(Refusal):
        await apart.site.chat(apart.site.base)
    assert apart.process.running.wait(20) == 0
    await apart.channel.close()
