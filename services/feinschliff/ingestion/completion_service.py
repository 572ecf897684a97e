"""The door of the completion log: the API's calls translated, handed on, and translated back."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from feinschliff.ingestion import completion_proto as proto
from feinschliff.ingestion.completion_model import COMPLETION, POLICY, Policy
from feinschliff.ingestion.completions import Completions
from feinschliff.ingestion.listing import Wish
from feinschliff.ingestion.model import PROJECT
from feinschliff.kit import masks, names
from feinschliff.kit.idempotency import digest_of
from feinschliff.kit.threads import offload
from feinschliff.v1 import ingestion_pb2 as pb
from feinschliff.v1 import ingestion_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_OF_ALL = f"{PROJECT}/completions/-"
_FIXED = tuple(field for field in pb.Completion.DESCRIPTOR.fields_by_name if field != "metadata")


class CompletionLogService(ingestion_pb2_grpc.CompletionLogServiceServicer):
    """Every method of the API."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    async def RecordCompletion(self, request: pb.RecordCompletionRequest, context: Context) -> pb.Completion:
        project = names.parse(PROJECT, request.parent, field="parent")["project"]
        exchange = await offload(proto.exchange_of, request)
        stored = await offload(
            self._completions.record,
            project,
            request.completion_id,
            exchange,
            request_id=request.request_id,
            body_digest=digest_of(request),
        )
        return await offload(proto.completion_message, stored)

    async def GetCompletion(self, request: pb.GetCompletionRequest, context: Context) -> pb.Completion:
        found = await offload(self._completions.get, **names.parse(COMPLETION, request.name))
        return await offload(proto.completion_message, found)

    async def ListCompletions(self, request: pb.ListCompletionsRequest, context: Context) -> pb.ListCompletionsResponse:
        project = names.parse(PROJECT, request.parent, field="parent")["project"]
        wish = Wish(request.page_size, request.page_token, request.filter, request.order_by)
        page = await offload(self._completions.list, project, wish)
        messages = await offload(lambda: [proto.completion_message(one) for one in page.items])
        return pb.ListCompletionsResponse(completions=messages, next_page_token=page.next_token, total_size=page.total)

    async def UpdateCompletion(self, request: pb.UpdateCompletionRequest, context: Context) -> pb.Completion:
        ids = names.parse(COMPLETION, request.completion.name, field="completion.name")
        read = await offload(self._completions.get, **ids)
        before = await offload(proto.completion_message, read)
        merged = masks.merged(before, request.completion, request.update_mask, immutable=_FIXED)
        metadata, etag = proto.metadata_of(merged), request.completion.etag
        changed = await offload(self._completions.update, read, metadata, etag=etag)
        return await offload(proto.completion_message, changed)

    async def DeleteCompletion(self, request: pb.DeleteCompletionRequest, context: Context) -> Empty:
        await offload(self._completions.delete, **names.parse(COMPLETION, request.name), etag=request.etag)
        return Empty()

    async def AddFeedback(self, request: pb.AddFeedbackRequest, context: Context) -> pb.Feedback:
        ids = names.parse(COMPLETION, request.parent, field="parent")
        judgement = proto.judgement_of(request.feedback)
        digest = digest_of(request)
        given = await offload(
            self._completions.judge, **ids, judgement=judgement, request_id=request.request_id, body_digest=digest
        )
        return proto.feedback_message(given)

    async def ListFeedback(self, request: pb.ListFeedbackRequest, context: Context) -> pb.ListFeedbackResponse:
        if request.parent.endswith("/completions/-"):
            project, completion = names.parse(_OF_ALL, request.parent, field="parent")["project"], "-"
        else:
            ids = names.parse(COMPLETION, request.parent, field="parent")
            project, completion = ids["project"], ids["completion"]
        wish = Wish(request.page_size, request.page_token, request.filter, request.order_by)
        page = await offload(self._completions.list_feedback, project, completion, wish)
        messages = [proto.feedback_message(one) for one in page.items]
        return pb.ListFeedbackResponse(feedback=messages, next_page_token=page.next_token, total_size=page.total)

    async def GetCompletionPolicy(
        self, request: pb.GetCompletionPolicyRequest, context: Context
    ) -> pb.CompletionPolicy:
        return self._policy(await offload(self._completions.policy, **names.parse(POLICY, request.name)))

    async def UpdateCompletionPolicy(
        self, request: pb.UpdateCompletionPolicyRequest, context: Context
    ) -> pb.CompletionPolicy:
        wanted = request.completion_policy
        ids = names.parse(POLICY, wanted.name, field="completion_policy.name")
        read = await offload(self._completions.policy, **ids)
        fixed = ["etag", "exchange_bytes_max"]
        merged = masks.merged(self._policy(read), wanted, request.update_mask, immutable=fixed)
        days = proto.retention_days_of(merged)
        changed = await offload(
            self._completions.set_policy,
            read,
            retention_days=days,
            sampled_fraction=merged.sampled_fraction,
            redact=list(merged.redact),
            etag=wanted.etag,
        )
        return self._policy(changed)

    def _policy(self, policy: Policy) -> pb.CompletionPolicy:
        return proto.policy_message(policy, self._completions.bytes_max)
