"""The door's calls for prompts."""

from __future__ import annotations

import grpc

from feinschliff.evaluation.evaluations import Listing
from feinschliff.evaluation.prompts.book import PromptBook
from feinschliff.evaluation.prompts.proto import from_create_prompt, to_prompt_version
from feinschliff.kit.threads import offload
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]


class PromptCalls(evaluation_pb2_grpc.EvaluationServiceServicer):
    """A part of the door: prompts."""

    _prompts: PromptBook

    async def CreatePrompt(self, request: pb.CreatePromptRequest, context: Context) -> pb.Prompt:
        return to_prompt_version(await offload(self._prompts.create, *from_create_prompt(request)))

    async def GetPrompt(self, request: pb.GetPromptRequest, context: Context) -> pb.Prompt:
        return to_prompt_version(await offload(self._prompts.get, request.name))

    async def ListPrompts(self, request: pb.ListPromptsRequest, context: Context) -> pb.ListPromptsResponse:
        listing = Listing(request.parent, request.page_size, request.page_token, request.filter, request.order_by)
        found, token, total = await offload(self._prompts.list, listing)
        prompts = map(to_prompt_version, found)
        return pb.ListPromptsResponse(prompts=prompts, next_page_token=token, total_size=total)
