"""What a model version or alias leads to: asked of the registry, and remembered, for versions never change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc

from feinschliff.inference.life import Sampling, Version
from feinschliff.inference.wishes import read_sampling
from feinschliff.kit import names
from feinschliff.kit.client import sync_channel
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import NotFound, Unavailable, Unserved, WrongState, from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.v1 import common_pb2, registry_pb2, registry_pb2_grpc

SERVICE = "feinschliff.v1.RegistryService"
VERSION = "projects/{project}/models/{model}/versions/{version}"
ALIAS = "projects/{project}/models/{model}@{alias}"
LISTED_MAX = 1000
ADAPTATIONS = (
    "lora",
    "dora",
    "qlora",
    "ia3",
    "bottleneck",
    "prompt",
    "p_tuning",
    "prefix",
    "last_layers",
    "full",
)  # what the engines compute; an import without a recipe is read to see
_KINDS = (
    registry_pb2.ModelVersion.KIND_UNSPECIFIED,
    registry_pb2.ModelVersion.KIND_ADAPTER,
    registry_pb2.ModelVersion.KIND_FULL,
    registry_pb2.ModelVersion.KIND_CLASSIFIER,
)

T = TypeVar("T")
_KEPT = 4096
_DOWN_SECONDS = 2.0  # a registry that does not answer is not asked again for this long


class Versions(Protocol):
    """The registry, as far as serving needs it."""

    def lookup(self, name: str) -> Version:
        """The version that a version name or alias leads to at present; blocks.

        Raises:
            NotFound: MODEL_UNKNOWN.
            Unserved: VERSION_KIND_UNSERVED, ADAPTATION_UNSERVED.
            Unavailable: the registry does not answer.
        """
        ...

    def lookup_for_new(self, name: str) -> Version:
        """The same for something that is only now to be served: asked anew.

        Raises:
            WrongState: VERSION_TAINTED.
        """
        ...

    def of_project(self, project: str) -> list[Version]:
        """The newest versions of a project that can be served, at most `LISTED_MAX`."""
        ...


class RegistryVersions:
    """See `Versions`; an alias is asked for again after `alias_seconds`, a version never."""

    def __init__(self, address: str, metrics: Metrics, *, clock: Clock, alias_seconds: float) -> None:
        channel = sync_channel(address, name="registry", services=[SERVICE], metrics=metrics, timeout_seconds=10)
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)
        self._clock = clock
        self._alias_seconds = alias_seconds
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Version]] = {}
        self._down: tuple[float, Unavailable] | None = None  # until when, and why

    def lookup(self, name: str) -> Version:
        now = self._clock.monotonic()
        with self._lock:
            asked_at, version = self._known.get(name, (0.0, None))
        if version is not None and (names.matches(VERSION, name) or now - asked_at < self._alias_seconds):
            return version
        return self._remember(name, now, self._ask(name))

    def lookup_for_new(self, name: str) -> Version:
        found = self._ask(name)
        if found.state == registry_pb2.ModelVersion.STATE_TAINTED:
            raise WrongState(
                "VERSION_TAINTED",
                f"{found.name} learned from rows that were erased since; nothing new may serve it.",
                advice=["Train it again without those rows, then serve the new version."],
                model=found.name,
            )
        return self._remember(name, self._clock.monotonic(), found)

    def of_project(self, project: str) -> list[Version]:
        request = registry_pb2.ListModelVersionsRequest(parent=f"projects/{project}/models/-", page_size=LISTED_MAX)
        found = self._answer(lambda: self._stub.ListModelVersions(request))
        return [_to_version(one) for one in found.model_versions if _is_served(one)]

    def _remember(self, name: str, now: float, found: registry_pb2.ModelVersion) -> Version:
        version = _servable(found)
        with self._lock:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[name] = self._known[version.name] = (now, version)
        return version

    def _ask(self, name: str) -> registry_pb2.ModelVersion:
        try:
            return self._answer(lambda: self._stub.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name)))
        except NotFound as error:
            raise NotFound("MODEL_UNKNOWN", f"The registry knows no {name}.", model=name) from error

    def _answer(self, ask: Callable[[], T]) -> T:
        if self._down is not None and self._clock.monotonic() < self._down[0]:
            raise self._down[1]
        try:
            return ask()
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if isinstance(refusal, Unavailable):
                self._down = (self._clock.monotonic() + _DOWN_SECONDS, refusal)
            raise refusal from error


def _is_served(found: registry_pb2.ModelVersion) -> bool:
    return found.kind in _KINDS and _adaptation(found) in ADAPTATIONS


def _adaptation(found: registry_pb2.ModelVersion) -> str:
    """The recipe's name of what made it; absent in a recipe means the default."""
    return found.recipe.WhichOneof("adaptation") or "lora"


def _servable(found: registry_pb2.ModelVersion) -> Version:
    if found.kind not in _KINDS:
        kind = registry_pb2.ModelVersion.Kind.Name(found.kind)
        message = f"{found.name} is {kind}; adapters, whole models and classifiers are served."
        raise Unserved("VERSION_KIND_UNSERVED", message, kind=kind)
    adaptation = _adaptation(found)
    if adaptation not in ADAPTATIONS:
        raise Unserved(
            "ADAPTATION_UNSERVED",
            f"{found.name} was trained as `{adaptation}`, which this version cannot serve; it serves "
            f"{', '.join(ADAPTATIONS)}.",
            adaptation=adaptation,
            model=found.name,
        )
    return _to_version(found)


def _to_version(found: registry_pb2.ModelVersion) -> Version:
    return Version(
        name=found.name,
        base_model=found.base_model,
        base_digest=found.base_digest,
        adapter_uri=found.adapter.uri,
        adapter_sha256=found.adapter.sha256,
        adapter_digest=found.adapter_digest,
        template_hash=found.chat_template_hash,
        stop_token_ids=tuple(found.stop_token_ids),
        defaults=_defaults(found.generation_defaults),
        adaptation=_adaptation(found) if found.HasField("recipe") else "",
        has_head=found.kind == registry_pb2.ModelVersion.KIND_CLASSIFIER,
    )


def _defaults(params: common_pb2.SamplingParams) -> Sampling:
    """A seed of the version's would make every answer the same one."""
    return read_sampling(params).model_copy(update={"seed": None})
