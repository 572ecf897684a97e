"""The door's calls for the search for better prompts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc

from feinschliff.evaluation.evaluations import Evaluations, Listing
from feinschliff.evaluation.optimization.optimizations import Optimizations
from feinschliff.evaluation.optimization.proto import from_optimize, to_optimization
from feinschliff.evaluation.optimization.store import OPTIMIZATION
from feinschliff.evaluation.runs.sources import Sources
from feinschliff.kit import names
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake, follow
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]


class Optimizing(NamedTuple):
    """What these calls need."""

    optimizations: Optimizations
    evaluations: Evaluations
    sources: Sources
    wake: Wake


class OptimizationCalls(evaluation_pb2_grpc.EvaluationServiceServicer):
    """A part of the door: searches for better prompts."""

    _optimizing: Optimizing

    async def OptimizePrompt(self, request: pb.OptimizePromptRequest, context: Context) -> pb.PromptOptimization:
        draft, once = from_optimize(request)
        eval_ = await offload(self._optimizing.evaluations.get, draft.eval)
        dataset = await self._optimizing.sources.facts(eval_.dataset_version, "prompt_optimization.eval")
        create = self._optimizing.optimizations.create
        return to_optimization(await offload(create, draft, dataset, once, validate_only=request.validate_only))

    async def GetPromptOptimization(
        self, request: pb.GetPromptOptimizationRequest, context: Context
    ) -> pb.PromptOptimization:
        return to_optimization(await offload(self._optimizing.optimizations.get, request.name))

    async def ListPromptOptimizations(
        self, request: pb.ListPromptOptimizationsRequest, context: Context
    ) -> pb.ListPromptOptimizationsResponse:
        listing = Listing(request.parent, request.page_size, request.page_token, request.filter, request.order_by)
        found, token, total = await offload(self._optimizing.optimizations.list, listing)
        optimizations = map(to_optimization, found)
        return pb.ListPromptOptimizationsResponse(
            prompt_optimizations=optimizations, next_page_token=token, total_size=total
        )

    async def CancelPromptOptimization(
        self, request: pb.CancelPromptOptimizationRequest, context: Context
    ) -> pb.PromptOptimization:
        return to_optimization(await offload(self._optimizing.optimizations.cancel, request.name))

    async def WatchPromptOptimization(
        self, request: pb.WatchPromptOptimizationRequest, context: Context
    ) -> AsyncIterator[pb.WatchPromptOptimizationResponse]:
        names.parse(OPTIMIZATION, request.name)
        rules = self._optimizing.optimizations
        views = follow(
            lambda cursor: rules.after(request.name, cursor),
            cursor_of=lambda view: view.optimization.changes,
            start=request.cursor,
            is_final=lambda: rules.is_over(request.name),
            wake=self._optimizing.wake,
        )
        async for view in views:
            cursor = view.optimization.changes
            yield pb.WatchPromptOptimizationResponse(cursor=cursor, prompt_optimization=to_optimization(view))
