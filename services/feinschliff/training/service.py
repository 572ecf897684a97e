"""The doors of training: what callers ask, and what a running attempt reports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import grpc
from google.protobuf import empty_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from feinschliff.formats.report import Report as AnyReport
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import Invalid, Unauthenticated
from feinschliff.kit.idempotency import digest_of
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake, follow
from feinschliff.training.attempts import Attempts
from feinschliff.training.jobs import Jobs, Order
from feinschliff.training.life import FINAL
from feinschliff.training.lists import Lists
from feinschliff.training.meters import Live
from feinschliff.training.proto import (
    from_failure,
    moment,
    to_checkpoint,
    to_event,
    to_job,
    to_point,
    to_recipe,
)
from feinschliff.training.reports import to_report
from feinschliff.v1 import training_pb2 as pb
from feinschliff.v1 import training_pb2_grpc

REPORTS_MAX = 10_000
Context = grpc.aio.ServicerContext[object, object]


class TrainingService(training_pb2_grpc.TrainingServiceServicer):
    def __init__(self, jobs: Jobs, lists: Lists, metrics: Metrics, wake: Wake) -> None:
        self._jobs = jobs
        self._lists = lists
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
        return to_job(await offload(self._jobs.create, order, validate_only=request.validate_only))

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
        told = await offload(self._attempts.record, attempt, bearer(context), reports)
        job = attempt.partition("/attempts/")[0]
        self._live.report(job, told.new)
        if heartbeat.memory_bytes:
            self._live.memory(job, heartbeat.memory_bytes, heartbeat.device_memory_bytes)
        response = pb.ReportResponse(last_sequence=last)
        if told.cancel:
            response.commands.add(kind=pb.Command.KIND_CANCEL)
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
