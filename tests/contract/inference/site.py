"""The inference room over real gRPC, beside a registry that is a real gRPC service too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from feinschliff.artifacts.bases import resolve
from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.store import Store
from feinschliff.formats.manifest import content_digest
from feinschliff.inference.__main__ import wire
from feinschliff.inference.settings import InferenceSettings
from feinschliff.kit.errors import NotFound, Refusal, Unavailable, from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.server import Room, Running, Servicer, start
from feinschliff.v1 import common_pb2, inference_pb2_grpc, registry_pb2, registry_pb2_grpc
from feinschliff.v1 import inference_pb2 as pb
from tests.support.waiting import eventually_async

PARENT = "projects/default"
LEARNED = (".json", ".safetensors")


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """Versions and aliases that a test puts here; `is_down` refuses everything."""

    def __init__(self) -> None:
        self.versions: dict[str, registry_pb2.ModelVersion] = {}
        self.aliases: dict[str, str] = {}
        self.is_down = False

    async def GetModelVersion(
        self, request: registry_pb2.GetModelVersionRequest, context: Any
    ) -> registry_pb2.ModelVersion:
        if self.is_down:
            raise Unavailable("DATABASE_UNAVAILABLE", "Down.")
        found = self.versions.get(self.aliases.get(request.name, request.name))
        if found is None:
            raise NotFound("MODEL_VERSION_NOT_FOUND", f"There is no {request.name}.")
        return found

    async def ListModelVersions(
        self, request: registry_pb2.ListModelVersionsRequest, context: Any
    ) -> registry_pb2.ListModelVersionsResponse:
        return registry_pb2.ListModelVersionsResponse(model_versions=self.versions.values())


class Site:
    """One inference room, its store and its registry; `base` is the tiny model's URI."""

    def __init__(self, folder: Path, tiny_model: Path, store: Store | None = None) -> None:
        (folder / "store").mkdir(exist_ok=True)
        self.folder = folder
        self.base = f"file:{tiny_model}"
        self.store: Store = store or DirectoryStore(folder / "store")
        self.base_digest = resolve(self.base, self.store, folder / "cache", offline=True).digest
        self.registry = Registry()
        self.settings: dict[str, Any] = {}
        self._registry_room: Running | None = None
        self._running: Running | None = None
        self._room: Room | None = None
        self._channel: grpc.aio.Channel | None = None

    async def start_registry(self) -> str:
        room = Room(
            "registry",
            0,
            0,
            [
                Servicer(
                    registry_pb2_grpc.add_RegistryServiceServicer_to_server,
                    self.registry,
                    "feinschliff.v1.RegistryService",
                )
            ],
            [],
            {},
            [],
            Metrics("registry"),
        )
        self._registry_room = await start([room], self._settings())
        return f"127.0.0.1:{self._registry_room.ports['registry']}"

    async def start(self, **settings: Any) -> None:
        if self._registry_room is None:
            self.settings["registry_address"] = await self.start_registry()
        chosen = self._settings(**settings)
        self._room = await asyncio.to_thread(wire, chosen, self.store)
        self._running = await start([self._room], chosen)
        self.address = f"127.0.0.1:{self._running.ports['inference']}"
        self._channel = grpc.aio.insecure_channel(self.address)
        self.chats = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self.deployments = inference_pb2_grpc.DeploymentServiceStub(self._channel)

    def _settings(self, **changes: Any) -> InferenceSettings:
        quick = {
            "home": self.folder / "home",
            "inference_port": 0,
            "inference_metrics_port": 0,
            "inference_turn_seconds": 0.2,
            "inference_alias_seconds": 0.0,
            "inference_threads": 2,
            "inference_lookup_tokens_max": 0,  # a long answer takes its time: tests end it, or wait behind it
            "drain_seconds": 0,
            "grace_seconds": 2,
        }
        return InferenceSettings(**{**quick, **self.settings, **changes})

    async def stop(self) -> None:
        if self._channel is not None:
            await self._channel.close()
        if self._running is not None:
            await self._running.stop()
        self._channel = self._running = None

    async def close(self) -> None:
        await self.stop()
        if self._registry_room is not None:
            await self._registry_room.stop()

    def metric(self, name: str, **labels: str) -> float:
        assert self._room is not None
        return self._room.metrics.value(f"feinschliff_inference_{name}", **labels)

    def register(self, folder: Path, number: int = 1, model: str = "m", **changes: Any) -> str:
        """Commits what a folder holds of a version and registers it; its name."""
        name = f"{PARENT}/models/{model}/versions/{number}"
        prefix = f"{PARENT}/trainingJobs/{model}-{number}/result"
        manifest = commit(
            self.store,
            prefix,
            {path.name: path for path in folder.iterdir() if path.suffix in LEARNED},
            {},
            kind="result",
        )
        version = registry_pb2.ModelVersion(
            name=name,
            state=registry_pb2.ModelVersion.STATE_READY,
            kind=registry_pb2.ModelVersion.KIND_ADAPTER,
            base_model=self.base,
            base_digest=self.base_digest,
            adapter=common_pb2.ArtifactRef(
                uri=f"s3://{self.store.bucket}/{prefix}", sha256=manifest.digest.removeprefix("sha256:")
            ),
            adapter_digest=content_digest(manifest.files),
        )
        for field, value in changes.items():
            setattr(version, field, value)
        self.registry.versions[name] = version
        return name

    def digest_of(self, version: str) -> str:
        return self.registry.versions[version].adapter_digest

    async def create(self, name: str = "d", *, wait: bool = True, **fields: Any) -> pb.Deployment:
        """A deployment of the tiny base in fp32; `routes` may be given as id -> model version."""
        routes = [pb.Route(id=one, model_version=model) for one, model in fields.pop("routes", {}).items()]
        deployment = pb.Deployment(
            **{
                "base_model": self.base,
                "precision": pb.Deployment.PRECISION_FP32,
                "routes": routes,
                **fields,
            }
        )
        request = pb.CreateDeploymentRequest(parent=PARENT, deployment_id=name, deployment=deployment)
        created = await refusing(self.deployments.CreateDeployment(request))
        return await self.wait_for(name, pb.Deployment.STATE_READY) if wait else created

    async def get(self, name: str = "d") -> pb.Deployment:
        request = pb.GetDeploymentRequest(name=f"{PARENT}/deployments/{name}")
        found: pb.Deployment = await refusing(self.deployments.GetDeployment(request))
        return found

    async def wait_for(self, name: str, state: pb.Deployment.State.ValueType, *, seconds: float = 30) -> pb.Deployment:
        async def found() -> pb.Deployment | None:
            deployment = await self.get(name)
            return deployment if deployment.state == state else None

        deployment = await eventually_async(found, seconds, f"{name} to be {pb.Deployment.State.Name(state)}")
        assert deployment is not None
        return deployment

    async def chat(self, model: str, text: str = "hello", *, timeout: float = 30, **sampling: Any) -> pb.ChatResponse:
        request = chat_request(model, text, **sampling)
        answer: pb.ChatResponse = await refusing(self.chats.Chat(request, timeout=timeout))
        return answer

    async def refused(self, model: str, **sampling: Any) -> Refusal:
        """The refusal of a chat that must not be answered."""
        try:
            answer = await self.chat(model, **sampling)
        except Refusal as refusal:
            return refusal
        raise AssertionError(f"{model} was answered by {answer.identity}")


LINGERING = {"max_tokens": 400, "logprobs": True, "top_logprobs": 20}
"""Wishes whose answer takes a quarter of a second or more, where one of a few tokens takes milliseconds."""


def chat_request(model: str, text: str = "hello", **sampling: Any) -> pb.ChatRequest:
    """Greedy and 8 tokens unless said otherwise."""
    params = {"temperature": 0.0, "max_tokens": 8, **sampling}
    turn = common_pb2.Message(role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text=text)])
    return pb.ChatRequest(model=model, messages=[turn], sampling=common_pb2.SamplingParams(**params))


def text_of(answer: pb.ChatResponse) -> str:
    return "".join(part.text for part in answer.message.parts)


async def refusing(call: Any) -> Any:
    """The answer, or what was raised as the refusal that it is."""
    try:
        return await call
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


@asynccontextmanager
async def open_site(folder: Path, tiny_model: Path, **settings: Any) -> AsyncIterator[Site]:
    site = Site(folder, tiny_model)
    await site.start(**settings)
    try:
        yield site
    finally:
        await site.close()
