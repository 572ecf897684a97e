"""Small services behind the gateway: real gRPC servers on loopback that keep everything in memory and hold to the
contract where the gateway relies on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

import grpc
import orjson
from google.protobuf.empty_pb2 import Empty

from feinschliff.kit.errors import Cancelled, FieldViolation, Invalid, NotFound, WrongState
from feinschliff.kit.filters import Comparison, parse_filter
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.paging import Page
from feinschliff.kit.server import Room, Servicer
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import inference_pb2_grpc, ingestion_pb2_grpc, registry_pb2_grpc, training_pb2_grpc
from feinschliff.v1 import ingestion_pb2 as ingestion
from feinschliff.v1 import registry_pb2 as registry
from feinschliff.v1 import training_pb2 as training
from tests.contract.gateway.judges import Judges
from tests.contract.gateway.texting import TextInference

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")
ROWS_MIN = 10
EPOCH_SECONDS = 1_790_000_000


class Datasets(ingestion_pb2_grpc.DatasetServiceServicer):
    """Chat rows, one JSON object a line; `kept_bytes_max` bounds what is held, so that size costs no memory."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        self.versions: dict[str, ingestion.DatasetVersion] = {}
        self.bytes_of: dict[str, bytes] = {}
        self.headers: list[ingestion.UploadHeader] = []
        self.chunk_bytes_seen: list[int] = []
        self.uploads_ended_early = 0
        self.in_use: set[str] = set()
        self.kept_bytes_max = 1 << 20

    async def UploadDatasetVersion(
        self, requests: AsyncIterator[ingestion.UploadDatasetVersionRequest], context: Context
    ) -> ingestion.DatasetVersion:
        header = (await anext(requests)).header
        self.headers.append(header)
        source, size_bytes = b"", 0
        try:
            async for part in requests:
                assert part.WhichOneof("part") == "chunk"
                assert 1 <= len(part.chunk) <= 1 << 20
                self.chunk_bytes_seen.append(len(part.chunk))
                size_bytes += len(part.chunk)
                source = (source + part.chunk)[: self.kept_bytes_max]
                if source[:1] == b"\x7f":
                    raise Invalid("FILE_BINARY", "The file is an ELF program, not text.", advice=["Export it."])
        except (asyncio.CancelledError, Cancelled):
            self.uploads_ended_early += 1
            raise
        return self._stored(header, source, size_bytes)

    async def GetDatasetVersion(
        self, request: ingestion.GetDatasetVersionRequest, context: Context
    ) -> ingestion.DatasetVersion:
        return _found(self.versions, request.name, "VERSION_NOT_FOUND")

    async def ListDatasetVersions(
        self, request: ingestion.ListDatasetVersionsRequest, context: Context
    ) -> ingestion.ListDatasetVersionsResponse:
        assert request.parent.endswith("/datasets/-")
        project = request.parent.removesuffix("/datasets/-")
        kept = [one for one in self.versions.values() if one.name.startswith(f"{project}/")]
        found, token = _page(kept, request, lambda one: one.create_time.seconds)
        return ingestion.ListDatasetVersionsResponse(dataset_versions=found, next_page_token=token)

    async def ReadSource(
        self, request: ingestion.ReadSourceRequest, context: Context
    ) -> AsyncIterator[ingestion.ReadSourceResponse]:
        _found(self.versions, request.name, "VERSION_NOT_FOUND")
        source = self.bytes_of[request.name]
        for start in range(0, len(source), 1000):
            yield ingestion.ReadSourceResponse(chunk=source[start : start + 1000], offset_bytes=start)

    async def DeleteDataset(self, request: ingestion.DeleteDatasetRequest, context: Context) -> Empty:
        if request.name in self.in_use:
            raise WrongState("DATASET_IN_USE", f"{request.name} is used by a live job.", dataset=request.name)
        del self.versions[f"{request.name}/versions/1"]
        return Empty()

    def _stored(self, header: ingestion.UploadHeader, source: bytes, size_bytes: int) -> ingestion.DatasetVersion:
        rows = source.splitlines()
        bad = [FieldViolation(f"lines[{n}].messages", why, code) for n, why, code in _bad_rows(rows)]
        if not source:
            raise Invalid("FILE_EMPTY", "The file has no row.", advice=["Check that the right file was sent."])
        if bad:
            raise Invalid(
                "ROWS_INVALID", f"{len(bad)} of {len(rows)} rows cannot be used.", fields=bad, advice=["Correct them."]
            )
        if len(rows) < ROWS_MIN:
            raise Invalid("TOO_FEW_ROWS", f"The file has {len(rows)} good rows; at least {ROWS_MIN} are needed.")
        name = f"{header.parent}/versions/1"
        if name not in self.versions:
            version = ingestion.DatasetVersion(
                name=name,
                state=ingestion.DatasetVersion.STATE_READY,
                format=ingestion.ROW_FORMAT_CHAT,
                source=common.ArtifactRef(size_bytes=size_bytes),
                filename=header.filename,
                rows=len(rows),
                rows_by_split={"train": len(rows)},
                labels=dict(header.labels),
            )
            version.create_time.seconds = self._clock()
            if len(rows) < 50:
                version.findings.add(severity=common.SEVERITY_WARNING, code="FEW_ROWS", count=len(rows), message="few")
            self.versions[name], self.bytes_of[name] = version, source
        return self.versions[name]


class Training(training_pb2_grpc.TrainingServiceServicer):
    """Jobs that move only when a test moves them, or are asked to."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        self.jobs: dict[str, training.TrainingJob] = {}
        self.events: dict[str, list[training.TrainingEvent]] = {}
        self.checkpoints: dict[str, list[training.Checkpoint]] = {}
        self.requests: list[training.CreateTrainingJobRequest] = []

    async def CreateTrainingJob(
        self, request: training.CreateTrainingJobRequest, context: Context
    ) -> training.TrainingJob:
        self.requests.append(request)
        recipe = request.training_job.recipe
        if recipe.base_model.endswith("nothing"):
            raise NotFound("BASE_NOT_INSTALLED", f"No distribution holds {recipe.base_model}.")
        if recipe.optimisation.learning_rate > 0.5:
            path = "training_job.recipe.optimisation.learning_rate"
            raise Invalid(
                "RECIPE_INVALID", "Too high.", fields=[FieldViolation(path, "must be less", "RECIPE_INVALID")]
            )
        name = f"{request.parent}/trainingJobs/{request.training_job_id}"
        if name not in self.jobs:
            job = training.TrainingJob(name=name, labels=request.training_job.labels, recipe=recipe)
            job.annotations.update(request.training_job.annotations)
            job.resolved_recipe.CopyFrom(recipe)
            job.create_time.seconds = self._clock()
            self.jobs[name], self.events[name], self.checkpoints[name] = job, [], []
            self.move(name, training.TrainingJob.STATE_QUEUED)
        return self.jobs[name]

    async def GetTrainingJob(self, request: training.GetTrainingJobRequest, context: Context) -> training.TrainingJob:
        return _found(self.jobs, request.name, "JOB_NOT_FOUND")

    async def ListTrainingJobs(
        self, request: training.ListTrainingJobsRequest, context: Context
    ) -> training.ListTrainingJobsResponse:
        kept = [job for job in self.jobs.values() if job.name.startswith(f"{request.parent}/")]
        found, token = _page(kept, request, lambda job: job.create_time.seconds)
        return training.ListTrainingJobsResponse(training_jobs=found, next_page_token=token)

    async def CancelTrainingJob(
        self, request: training.CancelTrainingJobRequest, context: Context
    ) -> training.TrainingJob:
        job = _found(self.jobs, request.name, "JOB_NOT_FOUND")
        if job.state in (training.TrainingJob.STATE_SUCCEEDED, training.TrainingJob.STATE_FAILED):
            raise WrongState("JOB_STATE_FORBIDS", f"{job.name} is over; it cannot be cancelled.", job=job.name)
        self.move(job.name, training.TrainingJob.STATE_CANCELLED)
        return job

    async def PauseTrainingJob(
        self, request: training.PauseTrainingJobRequest, context: Context
    ) -> training.TrainingJob:
        return self._asked(request.name, training.TrainingJob.STATE_RUNNING, training.TrainingJob.STATE_PAUSED)

    async def ResumeTrainingJob(
        self, request: training.ResumeTrainingJobRequest, context: Context
    ) -> training.TrainingJob:
        return self._asked(request.name, training.TrainingJob.STATE_PAUSED, training.TrainingJob.STATE_QUEUED)

    def _asked(
        self, name: str, before: training.TrainingJob.State.ValueType, after: training.TrainingJob.State.ValueType
    ) -> training.TrainingJob:
        job = _found(self.jobs, name, "JOB_NOT_FOUND")
        if job.state != before:
            raise WrongState("JOB_STATE_FORBIDS", f"{name} cannot do that now.", job=name)
        self.move(name, after)
        return job

    async def ListTrainingEvents(
        self, request: training.ListTrainingEventsRequest, context: Context
    ) -> training.ListTrainingEventsResponse:
        _found(self.jobs, request.parent, "JOB_NOT_FOUND")
        found, token = _page(self.events[request.parent], request, lambda event: event.cursor)
        return training.ListTrainingEventsResponse(training_events=found, next_page_token=token)

    async def ListCheckpoints(
        self, request: training.ListCheckpointsRequest, context: Context
    ) -> training.ListCheckpointsResponse:
        _found(self.jobs, request.parent, "JOB_NOT_FOUND")
        request.order_by = "step desc"
        found, token = _page(self.checkpoints[request.parent], request, lambda checkpoint: checkpoint.step)
        return training.ListCheckpointsResponse(checkpoints=found, next_page_token=token)

    async def GetCheckpoint(self, request: training.GetCheckpointRequest, context: Context) -> training.Checkpoint:
        kept = {one.name: one for many in self.checkpoints.values() for one in many}
        return _found(kept, request.name, "CHECKPOINT_NOT_FOUND")

    async def ListTrainingMetrics(
        self, request: training.ListTrainingMetricsRequest, context: Context
    ) -> training.ListTrainingMetricsResponse:
        _found(self.jobs, request.parent, "JOB_NOT_FOUND")
        points = [event.metrics for event in self.events[request.parent] if event.HasField("metrics")]
        return training.ListTrainingMetricsResponse(points=points)

    def tell(self, name: str, event: training.TrainingEvent) -> None:
        event.cursor = len(self.events[name]) + 1
        event.time.seconds = self._clock()
        self.events[name].append(event)

    def move(
        self, name: str, state: training.TrainingJob.State.ValueType, failure: common.Failure | None = None
    ) -> None:
        job = self.jobs[name]
        change = training.JobStateChange(previous=job.state, current=state, failure=failure)
        job.state = state
        if failure is not None:
            job.failure.CopyFrom(failure)
        if state >= training.TrainingJob.STATE_SUCCEEDED:
            job.finish_time.seconds = self._clock()
        level = training.TrainingEvent.LEVEL_ERROR if failure else training.TrainingEvent.LEVEL_INFO
        self.tell(name, training.TrainingEvent(level=level, message="moved", state_change=change))

    def measure(self, name: str, step: int, total: int, loss: float, *, phase: str = "TRAIN") -> None:
        point = training.MetricPoint(
            step=step,
            steps_total=total,
            values={"loss": loss},
            phase=training.MetricPoint.Phase.Value(f"PHASE_{phase}"),
        )
        self.jobs[name].metrics.step = step
        self.tell(name, training.TrainingEvent(message="measured", metrics=point))

    def save(self, name: str, step: int, loss: float) -> None:
        for earlier in self.checkpoints[name]:
            earlier.last = False
        checkpoint = training.Checkpoint(
            name=f"{name}/checkpoints/{step}", step=step, last=True, metrics={"validation_loss": loss}
        )
        checkpoint.create_time.seconds = self._clock()
        self.checkpoints[name].append(checkpoint)
        self.tell(name, training.TrainingEvent(message="saved", checkpoint=checkpoint))


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """Model versions, as the training service registers them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.versions: dict[str, registry.ModelVersion] = {}

    async def GetModelVersion(
        self, request: registry.GetModelVersionRequest, context: Context
    ) -> registry.ModelVersion:
        return _found(self.versions, request.name, "MODEL_VERSION_NOT_FOUND")

    async def ListModelVersions(
        self, request: registry.ListModelVersionsRequest, context: Context
    ) -> registry.ListModelVersionsResponse:
        project = request.parent.removesuffix("/models/-")
        kept = [one for one in self.versions.values() if one.name.startswith(f"{project}/")]
        found, token = _page(kept, request, lambda one: one.create_time.seconds)
        return registry.ListModelVersionsResponse(model_versions=found, next_page_token=token)

    async def DeleteModelVersion(self, request: registry.DeleteModelVersionRequest, context: Context) -> Empty:
        _found(self.versions, request.name, "MODEL_VERSION_NOT_FOUND")
        del self.versions[request.name]
        return Empty()


class Backends:
    """All services in one room, and a clock that moves a second with every thing made."""

    def __init__(self) -> None:
        self._seconds = EPOCH_SECONDS
        self.datasets = Datasets(self._tick)
        self.training = Training(self._tick)
        self.registry = Registry()
        self.inference = TextInference()
        self.judges = Judges()

    def reset(self) -> None:
        """As they were at the start; between two tests."""
        for service in (self.datasets, self.training, self.registry, self.inference, self.judges):
            service.reset()

    def room(self) -> Room:
        prefix = "feinschliff.v1."
        return Room(
            name="registry",
            port=0,
            metrics_port=0,
            servicers=[
                self.judges.servicer(),
                Servicer(
                    ingestion_pb2_grpc.add_DatasetServiceServicer_to_server, self.datasets, prefix + "DatasetService"
                ),
                Servicer(
                    training_pb2_grpc.add_TrainingServiceServicer_to_server, self.training, prefix + "TrainingService"
                ),
                Servicer(
                    registry_pb2_grpc.add_RegistryServiceServicer_to_server, self.registry, prefix + "RegistryService"
                ),
                Servicer(
                    inference_pb2_grpc.add_InferenceServiceServicer_to_server,
                    self.inference,
                    prefix + "InferenceService",
                ),
                Servicer(
                    inference_pb2_grpc.add_DeploymentServiceServicer_to_server,
                    self.inference,
                    prefix + "DeploymentService",
                ),
            ],
            loops=(),
            checks={},
            close=(),
            metrics=Metrics("registry"),
        )

    def run_to_success(self, job_id: str, *, project: str = "default", steps: int = 4) -> str:
        """What a trainer and the training service would do with the job; the model version's name."""
        name = f"projects/{project}/trainingJobs/{job_id}"
        job, state = self.training.jobs[name], training.TrainingJob
        self.training.move(name, state.STATE_RUNNING)
        for step in range(1, steps + 1):
            self.training.measure(name, step, steps, 2.0 / step)
            if step % 2 == 0:
                self.training.measure(name, step, steps, 2.5 / step, phase="VALIDATION")
                self.training.save(name, step, 2.5 / step)
        version = f"projects/{project}/models/{job_id}/versions/1"
        base = job.recipe.base_model or self.registry.versions[job.recipe.from_model_version].base_model
        self.registry.versions[version] = registry.ModelVersion(
            name=version, base_model=base, training_job=name, recipe=job.recipe, state=registry.ModelVersion.STATE_READY
        )
        self.registry.versions[version].create_time.seconds = self._tick()
        self.inference.bases[version] = base
        job.model_version, job.metrics.trained_tokens = version, 1234
        self.training.move(name, state.STATE_SUCCEEDED)
        return version

    def _tick(self) -> int:
        self._seconds += 1
        return self._seconds


def _found(kept: dict[str, T], name: str, reason: str) -> T:
    if name not in kept:
        raise NotFound(reason, f"There is no {name}.", name=name)
    return kept[name]


def _page(items: Iterable[T], request: Any, key: Callable[[T], int]) -> tuple[list[T], str]:
    """Sorted, filtered and cut as the contract says."""
    kept = [item for item in items if all(_holds(item, one) for one in parse_filter(request.filter))]
    kept.sort(key=key, reverse=request.order_by.endswith(" desc") or not request.order_by)
    page = Page.open(request.page_token, request.page_size, request.parent, request.filter, request.order_by)
    start = int(page.after[0]) if page.after else 0
    end = start + page.size
    return kept[start:end], page.token(end) if end < len(kept) else ""


def _holds(item: Any, comparison: Comparison) -> bool:
    if comparison.field.startswith("labels."):
        return bool(item.labels.get(comparison.field.removeprefix("labels.")) == comparison.value)
    assert comparison.field == "cursor"
    return bool({"<=": item.cursor <= (at := int(comparison.value)), ">=": item.cursor >= at}[comparison.op])


def _bad_rows(rows: Sequence[bytes]) -> Iterable[tuple[int, str, str]]:
    for number, row in enumerate(rows, start=1):
        try:
            messages = orjson.loads(row).get("messages")
        except orjson.JSONDecodeError:
            yield number, "the line is not JSON", "broken_json"
            continue
        if not any(message.get("role") == "assistant" for message in messages or []):
            yield number, "no assistant message", "example_missing_assistant_message"
