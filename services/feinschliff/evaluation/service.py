"""The door of evaluation: translate, call, translate back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import grpc
from google.protobuf import empty_pb2

from feinschliff.evaluation.evaluations import Evaluations, Listing
from feinschliff.evaluation.gates.service import Deciding, GateDoor
from feinschliff.evaluation.grading.grading import Grading
from feinschliff.evaluation.grading.proto import from_grader, to_grader, to_trial
from feinschliff.evaluation.messages import from_message, from_struct
from feinschliff.evaluation.optimization.service import OptimizationCalls, Optimizing
from feinschliff.evaluation.prompts.book import PromptBook
from feinschliff.evaluation.prompts.prompt import item_of
from feinschliff.evaluation.prompts.service import PromptCalls
from feinschliff.evaluation.proto import (
    from_create_eval,
    from_create_run,
    to_comparison,
    to_eval,
    to_item,
    to_run,
)
from feinschliff.evaluation.reports.reports import Form, Reports
from feinschliff.evaluation.resources import PROJECT, RUN, Eval
from feinschliff.evaluation.runs.comparisons import Comparisons, Family
from feinschliff.evaluation.runs.runs import Runs
from feinschliff.evaluation.statistics.intervals import CONFIDENCE
from feinschliff.graders.grade import Sample
from feinschliff.graders.grader import parse, parse_all
from feinschliff.graders.protocol import Grader
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.masks import merged
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake, follow
from feinschliff.v1 import evaluation_pb2 as pb

FORMS = {pb.RenderReportRequest.FORMAT_HTML: Form.HTML, pb.RenderReportRequest.FORMAT_CSV: Form.CSV}
Context = grpc.aio.ServicerContext[object, object]


class EvaluationService(GateDoor, PromptCalls, OptimizationCalls):
    def __init__(
        self,
        evaluations: Evaluations,
        runs: Runs,
        comparisons: Comparisons,
        prompts: PromptBook,
        optimizing: Optimizing,
        reports: Reports,
        grading: Grading,
        deciding: Deciding,
        clock: Clock,
        wake: Wake,
    ) -> None:
        super().__init__(deciding)
        self._evaluations = evaluations
        self._runs = runs
        self._comparisons = comparisons
        self._prompts = prompts
        self._optimizing, self._sources = optimizing, optimizing.sources
        self._reports = reports
        self._grading = grading
        self._clock = clock
        self._wake = wake

    async def ValidateGrader(self, request: pb.ValidateGraderRequest, context: Context) -> pb.Grader:
        names.parse(PROJECT, request.parent, field="parent")
        return to_grader(self._grader(request.grader))

    def _grader(self, asked: pb.Grader) -> Grader:
        grader = parse(from_grader(asked), nested=True)
        self._grading.check(grader, "grader")
        return grader

    async def RunGrader(self, request: pb.RunGraderRequest, context: Context) -> pb.RunGraderResponse:
        names.parse(PROJECT, request.parent, field="parent")
        graders = [self._grader(request.grader)]
        message = from_message(request.sample)
        sample = Sample(message.content or "", message.tool_calls or ())
        item = item_of(from_struct(request.item))
        begun = time.perf_counter()
        asked = await self._grading.asked(request.parent, graders, item, sample)
        (grade,) = await offload(self._grading.all, graders, item, sample, asked)
        return to_trial(grade, time.perf_counter() - begun)

    async def CreateEval(self, request: pb.CreateEvalRequest, context: Context) -> pb.Eval:
        draft, once = from_create_eval(request)
        for index, grader in enumerate(parse_all(draft.graders, path="eval.graders", nested=True)):
            self._grading.check(grader, f"eval.graders[{index}]")
        dataset = await self._sources.facts(draft.dataset_version, "eval.dataset_version")
        if draft.prompt is not None and "prompt" in draft.prompt:
            await offload(self._prompts.get, str(draft.prompt["prompt"]))
        create = self._evaluations.create
        return _eval(await offload(create, draft, dataset, once, validate_only=request.validate_only))

    async def GetEval(self, request: pb.GetEvalRequest, context: Context) -> pb.Eval:
        return _eval(await offload(self._evaluations.get, request.name))

    async def ListEvals(self, request: pb.ListEvalsRequest, context: Context) -> pb.ListEvalsResponse:
        evals, token, total = await offload(self._evaluations.list, _listing(request))
        return pb.ListEvalsResponse(evals=map(_eval, evals), next_page_token=token, total_size=total)

    async def UpdateEval(self, request: pb.UpdateEvalRequest, context: Context) -> pb.Eval:
        before = await offload(self._evaluations.get, request.eval.name)
        after = merged(_eval(before), request.eval, request.update_mask)
        return _eval(
            await offload(
                self._evaluations.update,
                before,
                request.eval.etag,
                display_name=after.display_name,
                description=after.description,
                labels=dict(after.labels),
                annotations=dict(after.annotations),
            )
        )

    async def DeleteEval(self, request: pb.DeleteEvalRequest, context: Context) -> empty_pb2.Empty:
        await offload(self._evaluations.delete, request.name, request.etag)
        return empty_pb2.Empty()

    async def CreateEvalRun(self, request: pb.CreateEvalRunRequest, context: Context) -> pb.EvalRun:
        draft, once = from_create_run(request)
        eval_ = await offload(self._evaluations.get, request.parent)
        dataset, brought = await self._sources.brought(draft, eval_)
        create = self._runs.create
        view = await offload(create, draft, dataset, once, brought=brought, validate_only=request.validate_only)
        return to_run(view, self._clock.now())

    async def GetEvalRun(self, request: pb.GetEvalRunRequest, context: Context) -> pb.EvalRun:
        return to_run(await offload(self._runs.get, request.name), self._clock.now())

    async def ListEvalRuns(self, request: pb.ListEvalRunsRequest, context: Context) -> pb.ListEvalRunsResponse:
        views, token, total = await offload(self._runs.list, _listing(request))
        runs = [to_run(view, self._clock.now()) for view in views]
        return pb.ListEvalRunsResponse(eval_runs=runs, next_page_token=token, total_size=total)

    async def CancelEvalRun(self, request: pb.CancelEvalRunRequest, context: Context) -> pb.EvalRun:
        return to_run(await offload(self._runs.cancel, request.name), self._clock.now())

    async def DeleteEvalRun(self, request: pb.DeleteEvalRunRequest, context: Context) -> empty_pb2.Empty:
        await offload(self._runs.delete, request.name, request.etag)
        return empty_pb2.Empty()

    async def WatchEvalRun(
        self, request: pb.WatchEvalRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchEvalRunResponse]:
        names.parse(RUN, request.name)
        views = follow(
            lambda cursor: self._runs.after(request.name, cursor),
            cursor_of=lambda view: view.run.changes,
            start=request.cursor,
            is_final=lambda: self._runs.is_over(request.name),
            wake=self._wake,
        )
        async for view in views:
            yield pb.WatchEvalRunResponse(cursor=view.run.changes, eval_run=to_run(view, self._clock.now()))

    async def ListOutputItems(self, request: pb.ListOutputItemsRequest, context: Context) -> pb.ListOutputItemsResponse:
        items, token, total = await offload(self._runs.list_items, _listing(request))
        return pb.ListOutputItemsResponse(output_items=map(to_item, items), next_page_token=token, total_size=total)

    async def GetOutputItem(self, request: pb.GetOutputItemRequest, context: Context) -> pb.OutputItem:
        return to_item(await offload(self._runs.get_item, request.name))

    async def CompareRuns(self, request: pb.CompareRunsRequest, context: Context) -> pb.RunComparison:
        level = request.level if request.HasField("level") else CONFIDENCE
        family = Family(request.other_candidates, request.across_graders, request.difference_min)
        compare = self._comparisons.compare
        return to_comparison(
            await offload(compare, request.baseline, request.candidate, request.grader, level, request.seed, family)
        )

    async def RenderReport(self, request: pb.RenderReportRequest, context: Context) -> pb.RenderReportResponse:
        report = await offload(self._reports.render, list(request.runs), FORMS.get(request.format, Form.MARKDOWN))
        return pb.RenderReportResponse(text=report.text, media_type=report.media_type)


def _eval(eval_: Eval) -> pb.Eval:
    return to_eval(eval_, parse_all(eval_.graders, path="graders", is_stored=True))


def _listing(
    request: pb.ListEvalsRequest | pb.ListEvalRunsRequest | pb.ListOutputItemsRequest,
) -> Listing:
    return Listing(request.parent, request.page_size, request.page_token, request.filter, request.order_by)
