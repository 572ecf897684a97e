"""The doors of training: what callers ask, and what a running attempt reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import grpc
from google.protobuf import empty_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.formats.report import Report as AnyReport
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import FieldViolation, Invalid, Refusal, Unauthenticated
from feinschliff.kit.idempotency import digest_of
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake, follow
from feinschliff.training import capabilities
from feinschliff.training.attempts import Attempts
from feinschliff.training.jobs import PROJECT, Jobs, Order
from feinschliff.training.life import FINAL
from feinschliff.training.lists import Lists
from feinschliff.training.logs import Logs
from feinschliff.training.meters import Live
from feinschliff.training.plan import Planner
from feinschliff.training.plan_proto import to_plan
from feinschliff.training.proto import (
    KINDS,
    from_failure,
    moment,
    to_checkpoint,
    to_event,
    to_job,
    to_point,
    to_recipe,
    to_rule,
)
from feinschliff.training.reports import energy_of, to_report
from feinschliff.v1 import training_pb2 as pb
from feinschliff.v1 import training_pb2_grpc

REPORTS_MAX = 10_000
Context = grpc.aio.ServicerContext[object, object]


@dataclass(frozen=True)
class Offer:
    """What this installation offers beside what the code can do.

    Args:
        check_base: refuses a base that cannot be had here.
        execution_profiles: the default first.
    """

    check_base: Callable[[str], None]
    execution_profiles: Sequence[str]
    trackers: Sequence[str] = ()

    def check(self, base_model: str) -> None:
        """Raises what `check_base` does, in the words of a call that asks for one base alone."""
        try:
            self.check_base(base_model)
        except Refusal as refusal:
            refusal.fields = (FieldViolation("base_model", refusal.message, refusal.reason),)
            raise


class TrainingService(training_pb2_grpc.TrainingServiceServicer):
    def __init__(
        self, jobs: Jobs, planner: Planner, lists: Lists, logs: Logs, offer: Offer, metrics: Metrics, wake: Wake
    ) -> None:
        self._jobs = jobs
        self._planner = planner
        self._lists = lists
        self._logs = logs
        self._offer = offer
        self._metrics = metrics
        self._wake = wake

    async def CreateTrainingJob(self, request: pb.CreateTrainingJobRequest, context: Context) -> pb.TrainingJob:
        wanted = request.training_job
        order = Order(
            parent=request.parent,
            job_id=request.training_job_id,
            recipe=to_recipe(wanted.recipe),
            labels=dict(wanted.labels),
            annotations=dict(wanted.annotations),
            request_id=request.request_id,
            body_digest=digest_of(request),
        )
        job = await offload(self._jobs.create, order, validate_only=request.validate_only)
        if request.validate_only:
            await offload(self._planner.refuse_what_will_fail, job)
        return to_job(job)

    async def PlanTrainingJob(self, request: pb.PlanTrainingJobRequest, context: Context) -> pb.TrainingPlan:
        recipe = to_recipe(request.training_job.recipe)
        order = Order(request.parent, "", recipe, {}, {}, request_id="", body_digest="")
        job = await offload(self._jobs.create, order, validate_only=True)
        return to_plan(await offload(self._planner.plan, job))

    async def GetTrainingJob(self, request: pb.GetTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return to_job(await offload(self._jobs.get, request.name))

    async def ListTrainingJobs(
        self, request: pb.ListTrainingJobsRequest, context: Context
    ) -> pb.ListTrainingJobsResponse:
        listed = await offload(
            self._lists.jobs, request.parent, request.page_token, request.page_size, request.filter, request.order_by
        )
        return pb.ListTrainingJobsResponse(
            training_jobs=[to_job(job) for job in listed.items], next_page_token=listed.next_token
        )

    async def CancelTrainingJob(self, request: pb.CancelTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return to_job(await offload(self._jobs.cancel, request.name, request.reason))

    async def PauseTrainingJob(self, request: pb.PauseTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return to_job(await offload(self._jobs.pause, request.name))

    async def ResumeTrainingJob(self, request: pb.ResumeTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return to_job(await offload(self._jobs.resume, request.name))

    async def RetryTrainingJob(self, request: pb.RetryTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return to_job(await offload(self._jobs.retry, request.name))

    async def DeleteTrainingJob(self, request: pb.DeleteTrainingJobRequest, context: Context) -> empty_pb2.Empty:
        await offload(self._jobs.delete, request.name, request.etag)
        return empty_pb2.Empty()

    async def WatchTrainingJob(
        self, request: pb.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrainingJobResponse]:
        job = await offload(self._jobs.get, request.name)
        yield pb.WatchTrainingJobResponse(cursor=request.cursor, job=to_job(job))
        cursor = request.cursor
        with self._metrics.gauge("feinschliff_training_watchers").track_inprogress():
            events = follow(
                lambda after: self._lists.events_after(request.name, after),
                cursor_of=lambda event: event.cursor,
                start=request.cursor,
                is_final=lambda: self._jobs.get(request.name).state in FINAL,
                wake=self._wake,
            )
            async for event in events:
                cursor = event.cursor
                response = pb.WatchTrainingJobResponse(cursor=cursor, event=to_event(request.name, event))
                if event.detail.get("kind") != "notice":
                    response.job.CopyFrom(to_job(await offload(self._jobs.get, request.name)))
                yield response
        yield pb.WatchTrainingJobResponse(cursor=cursor, job=to_job(await offload(self._jobs.get, request.name)))

    async def ListTrainingEvents(
        self, request: pb.ListTrainingEventsRequest, context: Context
    ) -> pb.ListTrainingEventsResponse:
        listed = await offload(
            self._lists.events, request.parent, request.page_token, request.page_size, request.filter, request.order_by
        )
        events = [to_event(request.parent, event) for event in listed.items]
        return pb.ListTrainingEventsResponse(training_events=events, next_page_token=listed.next_token)

    async def ListTrainingMetrics(
        self, request: pb.ListTrainingMetricsRequest, context: Context
    ) -> pb.ListTrainingMetricsResponse:
        steps = (request.step_min, request.step_max or None)
        listed = await offload(
            self._lists.metrics, request.parent, request.page_token, request.page_size, request.filter, steps
        )
        points = [to_point(event) for event in listed.items]
        if request.values:
            for point in points:
                for key in set(point.values) - set(request.values):
                    del point.values[key]
        return pb.ListTrainingMetricsResponse(points=points, next_page_token=listed.next_token)

    async def ListCheckpoints(self, request: pb.ListCheckpointsRequest, context: Context) -> pb.ListCheckpointsResponse:
        listed = await offload(
            self._lists.checkpoints, request.parent, request.page_token, request.page_size, request.filter
        )
        return pb.ListCheckpointsResponse(
            checkpoints=[to_checkpoint(one.checkpoint, last=one.last) for one in listed.items],
            next_page_token=listed.next_token,
        )

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Context) -> pb.Checkpoint:
        found = await offload(self._lists.checkpoint, request.name)
        return to_checkpoint(found.checkpoint, last=found.last)

    async def StreamLogs(self, request: pb.StreamLogsRequest, context: Context) -> AsyncIterator[pb.StreamLogsResponse]:
        if request.offset_bytes < 0:
            field = FieldViolation("offset_bytes", "must be 0 or more", "RANGE_INVALID")
            raise Invalid("RANGE_INVALID", "offset_bytes must be 0 or more.", fields=[field])
        tail = await offload(self._logs.tail, request.name, request.attempt)
        pieces = follow(
            tail.read,
            cursor_of=lambda piece: piece.end,
            start=request.offset_bytes,
            is_final=lambda: not request.follow or tail.is_final(),
            wake=self._wake,
        )
        async for piece in pieces:
            yield pb.StreamLogsResponse(chunk=piece.text, offset_bytes=piece.start, attempt=piece.attempt)

    async def GetCapabilities(self, request: pb.GetCapabilitiesRequest, context: Context) -> pb.Capabilities:
        names.parse(PROJECT, request.parent, field="parent")
        if request.base_model:
            await offload(self._offer.check, request.base_model)
        choices = pb.TrainingRecipe.DESCRIPTOR.oneofs_by_name
        objectives, adaptations = ([field.name for field in choices[group].fields] for group in KINDS)
        return pb.Capabilities(
            techniques=[pb.Technique(**asdict(one)) for one in capabilities.techniques(objectives, adaptations)],
            parameters=[to_rule(rule) for rule in capabilities.rules()],
            base_models=[DEFAULT_BASE],
            execution_profiles=self._offer.execution_profiles,
            trackers=self._offer.trackers,
        )


class WorkerService(training_pb2_grpc.WorkerServiceServicer):
    """Open to the token of one attempt only."""

    def __init__(self, attempts: Attempts, live: Live, clock: Clock) -> None:
        self._attempts = attempts
        self._live = live
        self._clock = clock

    async def GetRunfile(self, request: pb.GetRunfileRequest, context: Context) -> pb.GetRunfileResponse:
        runfile = await offload(self._attempts.runfile, request.attempt, bearer(context))
        return pb.GetRunfileResponse(runfile=ParseDict(runfile.model_dump(mode="json"), Struct()))

    async def Report(self, request_iterator: AsyncIterator[pb.ReportRequest], context: Context) -> pb.ReportResponse:
        attempt, last, heartbeat = "", 0, pb.Heartbeat()
        reports: list[tuple[int, datetime, AnyReport]] = []
        async for message in request_iterator:
            attempt = attempt or message.attempt
            if message.attempt != attempt or len(reports) >= REPORTS_MAX:
                raise Invalid(
                    "REPORT_STREAM_INVALID", f"One stream carries one attempt and at most {REPORTS_MAX} reports."
                )
            time = moment(message.time) if message.HasField("time") else self._clock.now()
            last = max(last, message.sequence)
            report = to_report(message)
            if message.HasField("heartbeat"):
                heartbeat = message.heartbeat
            if report is not None:
                reports.append((message.sequence, time, report))
        if not attempt:
            raise Invalid("REPORT_STREAM_INVALID", "The stream ended before its first report.")
        told = await offload(self._attempts.record, attempt, bearer(context), reports, energy_of(heartbeat))
        job = attempt.partition("/attempts/")[0]
        self._live.report(job, told.new)
        if told.new_joules:
            carbon = self._attempts.tariff.carbon_grams(told.new_joules)
            self._live.energy(job, told.job.profile, told.new_joules, carbon)
        if heartbeat.memory_bytes:
            self._live.memory(job, heartbeat.memory_bytes, heartbeat.device_memory_bytes)
        response = pb.ReportResponse(last_sequence=last)
        if told.cancel:
            response.commands.add(kind=pb.Command.KIND_CANCEL)
        if told.pause:
            response.commands.add(kind=pb.Command.KIND_PAUSE)
        return response

    async def Finish(self, request: pb.FinishRequest, context: Context) -> pb.FinishResponse:
        failure = from_failure(request.failure) if request.HasField("failure") else None
        await offload(self._attempts.finish, request.attempt, bearer(context), failure)
        return pb.FinishResponse()


def bearer(context: Context) -> str:
    """The token that the call carries."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value.removeprefix("Bearer ")
    raise Unauthenticated("ATTEMPT_TOKEN_MISSING", "Send the attempt's token as `authorization: Bearer <token>`.")
