"""The rooms that evaluation asks: ingestion for rows, inference for answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple

import grpc

from feinschliff.evaluation.messages import from_message, from_struct, to_message, to_sampling, to_tool
from feinschliff.evaluation.resources import DatasetFacts, Identity, Sampling, Split, Usage
from feinschliff.formats.records import Message
from feinschliff.graders.grade import Item
from feinschliff.kit import client
from feinschliff.kit.errors import from_rpc_error
from feinschliff.kit.metrics import Metrics
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import (
    inference_pb2,
    inference_pb2_grpc,
    ingestion_pb2,
    ingestion_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

SPLITS: Mapping[Split, common.Split.ValueType] = {
    "": common.SPLIT_UNSPECIFIED,
    "train": common.SPLIT_TRAIN,
    "validation": common.SPLIT_VALIDATION,
    "test": common.SPLIT_TEST,
}
FINISH_REASONS: Mapping[int, str] = {
    common.FINISH_REASON_UNSPECIFIED: "",
    common.FINISH_REASON_STOP: "stop",
    common.FINISH_REASON_LENGTH: "length",
    common.FINISH_REASON_TOOL_CALLS: "tool_calls",
    common.FINISH_REASON_CONTENT_FILTER: "content_filter",
    common.FINISH_REASON_CANCELLED: "cancelled",
    common.FINISH_REASON_ERROR: "error",
}

COMPLETIONS_AT_ONCE = 200


class Row(NamedTuple):
    """One row of a dataset version: its line in the source and its fields."""

    line: int
    data: Item


class Answer(NamedTuple):
    """What a model said."""

    message: Message
    finish_reason: str
    usage: Usage
    identity: Identity
    latency_seconds: float


class Datasets:
    """Dataset versions, from ingestion."""

    def __init__(self, address: str, metrics: Metrics, timeout_seconds: float) -> None:
        self._address = address
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds

    async def facts(self, name: str) -> DatasetFacts:
        """Raises what ingestion refuses with, such as NotFound."""
        try:
            version = await self._stub().GetDatasetVersion(ingestion_pb2.GetDatasetVersionRequest(name=name))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        is_ready = version.state == ingestion_pb2.DatasetVersion.STATE_READY
        return DatasetFacts(version.name, is_ready, version.rows, dict(version.rows_by_split))

    async def read(self, name: str, split: Split, *, start: int, limit: int) -> AsyncGenerator[Row]:
        """Rows in their order from `start` on, `limit` at most (0: all); raises what ingestion refuses with."""
        request = ingestion_pb2.ReadRowsRequest(name=name, split=SPLITS[split], start=start, limit=limit)
        call = self._stub().ReadRows(request)
        try:
            async for response in call:
                for row in response.rows:
                    yield Row(row.line, from_struct(row.data))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    async def sample(self, name: str, split: Split, *, count: int, seed: int) -> list[Row]:
        """Rows drawn without replacement; raises what ingestion refuses with."""
        request = ingestion_pb2.SampleRowsRequest(name=name, split=SPLITS[split], count=count, seed=seed)
        try:
            response = await self._stub().SampleRows(request)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return [Row(row.line, from_struct(row.data)) for row in response.rows]

    def _stub(self) -> ingestion_pb2_grpc.DatasetServiceAsyncStub:
        channel = client.channel(
            self._address,
            name="ingestion",
            services=[ingestion_pb2.DESCRIPTOR.services_by_name["DatasetService"].full_name],
            metrics=self._metrics,
            timeout_seconds=self._timeout_seconds,
        )
        return ingestion_pb2_grpc.DatasetServiceStub(channel)


class CompletionLog:
    """Stored completions, from ingestion."""

    def __init__(self, address: str, metrics: Metrics, timeout_seconds: float) -> None:
        self._address = address
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds

    async def rows(self, project: str, filter: str, limit: int) -> list[Item]:
        """The newest exchanges that have an answer as rows, the oldest first; raises what ingestion refuses with."""
        query = ingestion_pb2.ListCompletionsRequest(parent=project, filter=filter, order_by="create_time desc")
        rows: list[Item] = []
        while len(rows) < limit:
            query.page_size = min(COMPLETIONS_AT_ONCE, limit)
            try:
                page = await self._stub().ListCompletions(query)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error
            rows += [completion_row(one) for one in page.completions if one.HasField("response")]
            query.page_token = page.next_page_token
            if not page.next_page_token:
                break
        return rows[:limit][::-1]

    def _stub(self) -> ingestion_pb2_grpc.CompletionLogServiceAsyncStub:
        channel = client.channel(
            self._address,
            name="ingestion",
            services=[ingestion_pb2.DESCRIPTOR.services_by_name["CompletionLogService"].full_name],
            metrics=self._metrics,
            timeout_seconds=self._timeout_seconds,
        )
        return ingestion_pb2_grpc.CompletionLogServiceStub(channel)


def completion_row(completion: ingestion_pb2.Completion) -> Item:
    """An exchange as graders and prompts see it."""
    turns = [from_message(turn).model_dump(mode="json", exclude_none=True) for turn in completion.messages]
    answer = from_message(completion.response)
    return {
        "prompt": turns,
        "completion": answer.content or "",
        "answer": answer.model_dump(mode="json", exclude_none=True),
        "model": completion.model,
        "metadata": dict(completion.metadata),
        "name": completion.name,
    }


class Models:
    """Models that answer, from inference."""

    def __init__(self, address: str, metrics: Metrics, timeout_seconds: float) -> None:
        self._address = address
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds

    async def ask(
        self,
        project: str,
        model: str,
        messages: Sequence[Message],
        sampling: Sampling,
        tools: Sequence[Mapping[str, object]] = (),
    ) -> Answer:
        """One answer, for `projects/{project}`; raises what inference refuses with. Nothing is stored in the log."""
        request = inference_pb2.ChatRequest(
            model=model,
            messages=map(to_message, messages),
            sampling=to_sampling(sampling),
            tools=map(to_tool, tools),
            store=False,
            project=project,
        )
        try:
            response = await self._stub().Chat(request, timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return Answer(
            message=from_message(response.message),
            finish_reason=FINISH_REASONS.get(response.finish_reason, ""),
            usage=Usage(
                response.usage.prompt_tokens,
                response.usage.completion_tokens,
                response.usage.cached_tokens,
                response.usage.reasoning_tokens,
            ),
            identity=Identity(
                response.identity.model_version,
                response.identity.base_digest,
                response.identity.adapter_digest,
                response.identity.template_hash,
            ),
            latency_seconds=response.latency_seconds,
        )

    def _stub(self) -> inference_pb2_grpc.InferenceServiceAsyncStub:
        channel = client.channel(
            self._address,
            name="inference",
            services=[inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name],
            metrics=self._metrics,
            timeout_seconds=self._timeout_seconds,
        )
        return inference_pb2_grpc.InferenceServiceStub(channel)


class KnownVersion(NamedTuple):
    """A model version, and the URI of the base that it was made from."""

    name: str
    base: str


class Versions:
    """Model versions, from the registry."""

    def __init__(self, address: str, metrics: Metrics, timeout_seconds: float) -> None:
        self._address = address
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds

    async def get(self, name: str) -> KnownVersion:
        """The version, or the one that an alias points to; raises what the registry refuses with, such as NotFound."""
        channel = client.channel(
            self._address,
            name="registry",
            services=[registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name],
            metrics=self._metrics,
            timeout_seconds=self._timeout_seconds,
        )
        stub: registry_pb2_grpc.RegistryServiceAsyncStub = registry_pb2_grpc.RegistryServiceStub(channel)
        try:
            version = await stub.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return KnownVersion(version.name, version.base_model)
