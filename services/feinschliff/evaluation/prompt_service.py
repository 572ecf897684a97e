"""The door's calls for prompts and for the search for better ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc

from feinschliff.evaluation.evaluations import Evaluations, Listing
from feinschliff.evaluation.optimization_proto import from_optimize, to_optimization
from feinschliff.evaluation.optimization_store import OPTIMIZATION
from feinschliff.evaluation.optimizations import Optimizations
from feinschliff.evaluation.prompt_book import PromptBook
from feinschliff.evaluation.prompt_proto import from_create_prompt, to_prompt_version
from feinschliff.evaluation.sources import Sources
from feinschliff.kit import names
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake, follow
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]


class Prompting(NamedTuple):
    """What these calls need."""

    prompts: PromptBook
    optimizations: Optimizations
    evaluations: Evaluations
    sources: Sources
    wake: Wake


class PromptCalls(evaluation_pb2_grpc.EvaluationServiceServicer):
    """A part of the door: prompts and their optimisation."""

    _prompting: Prompting

    async def CreatePrompt(self, request: pb.CreatePromptRequest, context: Context) -> pb.Prompt:
        return to_prompt_version(await offload(self._prompting.prompts.create, *from_create_prompt(request)))

    async def GetPrompt(self, request: pb.GetPromptRequest, context: Context) -> pb.Prompt:
        return to_prompt_version(await offload(self._prompting.prompts.get, request.name))

    async def ListPrompts(self, request: pb.ListPromptsRequest, context: Context) -> pb.ListPromptsResponse:
        found, token, total = await offload(self._prompting.prompts.list, _listing(request))
        prompts = map(to_prompt_version, found)
        return pb.ListPromptsResponse(prompts=prompts, next_page_token=token, total_size=total)

    async def OptimizePrompt(self, request: pb.OptimizePromptRequest, context: Context) -> pb.PromptOptimization:
        draft, once = from_optimize(request)
        eval_ = await offload(self._prompting.evaluations.get, draft.eval)
        dataset = await self._prompting.sources.facts(eval_.dataset_version, "prompt_optimization.eval")
        create = self._prompting.optimizations.create
        return to_optimization(await offload(create, draft, dataset, once, validate_only=request.validate_only))

    async def GetPromptOptimization(
        self, request: pb.GetPromptOptimizationRequest, context: Context
    ) -> pb.PromptOptimization:
        return to_optimization(await offload(self._prompting.optimizations.get, request.name))

    async def ListPromptOptimizations(
        self, request: pb.ListPromptOptimizationsRequest, context: Context
    ) -> pb.ListPromptOptimizationsResponse:
        found, token, total = await offload(self._prompting.optimizations.list, _listing(request))
        optimizations = map(to_optimization, found)
        return pb.ListPromptOptimizationsResponse(
            prompt_optimizations=optimizations, next_page_token=token, total_size=total
        )

    async def CancelPromptOptimization(
        self, request: pb.CancelPromptOptimizationRequest, context: Context
    ) -> pb.PromptOptimization:
        return to_optimization(await offload(self._prompting.optimizations.cancel, request.name))

    async def WatchPromptOptimization(
        self, request: pb.WatchPromptOptimizationRequest, context: Context
    ) -> AsyncIterator[pb.WatchPromptOptimizationResponse]:
        names.parse(OPTIMIZATION, request.name)
        rules = self._prompting.optimizations
        views = follow(
            lambda cursor: rules.after(request.name, cursor),
            cursor_of=lambda view: view.optimization.changes,
            start=request.cursor,
            is_final=lambda: rules.is_over(request.name),
            wake=self._prompting.wake,
        )
        async for view in views:
            cursor = view.optimization.changes
            yield pb.WatchPromptOptimizationResponse(cursor=cursor, prompt_optimization=to_optimization(view))


def _listing(request: pb.ListPromptsRequest | pb.ListPromptOptimizationsRequest) -> Listing:
    return Listing(request.parent, request.page_size, request.page_token, request.filter, request.order_by)
