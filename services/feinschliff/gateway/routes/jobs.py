"""`/v1/fine_tuning/jobs`: create, look at, stop, and follow by events and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import APIRouter, Request, Response

from feinschliff.gateway import ids
from feinschliff.gateway.bodies import read_json, reply
from feinschliff.gateway.errors import ApiError, answering, no_job
from feinschliff.gateway.events import to_checkpoint, to_events
from feinschliff.gateway.jobs import MODEL_ANNOTATION, JobView
from feinschliff.gateway.pages import Item, ServicePage, page_of, query_of
from feinschliff.gateway.recipes import Start, param_of, to_recipe
from feinschliff.gateway.state import Here, Project, State
from feinschliff.gateway.tuning import JobBody, resolve
from feinschliff.v1 import ingestion_pb2
from feinschliff.v1 import training_pb2 as pb

router = APIRouter()
JOBS, EVENTS, CHECKPOINTS, PAGE_MAX = 20, 20, 10, 1000
"""Items on a page that names no limit, and at most."""


@router.post("/v1/fine_tuning/jobs")
async def create(request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, JobBody, bytes_max=here.settings.gateway_body_bytes_max)
    body.check_served()
    key = request.headers.get("idempotency-key", "")
    job_id = ids.new_id(ids.JOB_PREFIX, project, key)
    with _unknown_is_bad_request():
        asked = pb.CreateTrainingJobRequest(
            parent=ids.project_name(project),
            training_job_id=job_id,
            training_job=await _wanted(here, project, body, seed=ids.seed_of(job_id)),
            request_id=job_id if key else "",
        )
        with answering(param_of=param_of(body)):
            job = await here.clients.training.CreateTrainingJob(asked)
    return reply(JobView(job, here.bases).to_json())


@router.get("/v1/fine_tuning/jobs")
async def list_jobs(request: Request, here: Here, project: Project) -> Response:
    query = query_of(request, default=JOBS, maximum=PAGE_MAX)
    is_wanted = _metadata_filter(request)

    async def fetch(token: str, size: int) -> ServicePage:
        asked = pb.ListTrainingJobsRequest(
            parent=ids.project_name(project),
            page_size=size,
            page_token=token,
            order_by="create_time" if query.order == "asc" else "create_time desc",
        )
        with answering():
            page = await here.clients.training.ListTrainingJobs(asked)
        return ServicePage(
            [JobView(job, here.bases).to_json() for job in page.training_jobs if is_wanted(job)], page.next_page_token
        )

    return reply(await page_of(fetch, query))


@router.get("/v1/fine_tuning/jobs/{job_id}")
async def retrieve(job_id: str, here: Here, project: Project) -> Response:
    return reply((await _job(here, project, job_id)).to_json())


@router.post("/v1/fine_tuning/jobs/{job_id}/cancel")
async def cancel(job_id: str, here: Here, project: Project) -> Response:
    name = _name(project, job_id)
    with answering(missing=no_job(job_id)):
        job = await here.clients.training.CancelTrainingJob(pb.CancelTrainingJobRequest(name=name))
    return reply(JobView(job, here.bases).to_json())


@router.post("/v1/fine_tuning/jobs/{job_id}/pause")
async def pause(job_id: str, here: Here, project: Project) -> Response:
    name = _name(project, job_id)
    with answering(missing=no_job(job_id)):
        job = await here.clients.training.PauseTrainingJob(pb.PauseTrainingJobRequest(name=name))
    return reply(JobView(job, here.bases).to_json())


@router.post("/v1/fine_tuning/jobs/{job_id}/resume")
async def resume(job_id: str, here: Here, project: Project) -> Response:
    name = _name(project, job_id)
    with answering(missing=no_job(job_id)):
        job = await here.clients.training.ResumeTrainingJob(pb.ResumeTrainingJobRequest(name=name))
    return reply(JobView(job, here.bases).to_json())


@router.get("/v1/fine_tuning/jobs/{job_id}/events")
async def events(job_id: str, request: Request, here: Here, project: Project) -> Response:
    view = await _job(here, project, job_id)
    query = query_of(request, default=EVENTS, maximum=PAGE_MAX)
    is_ascending = query.order == "asc"
    cursor = ids.event_cursor(job_id, query.after) if query.after else None

    async def fetch(token: str, size: int) -> ServicePage:
        asked = pb.ListTrainingEventsRequest(
            parent=_name(project, job_id),
            page_size=size,
            page_token=token,
            filter="" if cursor is None else f"cursor {'>=' if is_ascending else '<='} {cursor}",
            order_by="cursor" if is_ascending else "cursor desc",
        )
        with answering(missing=no_job(job_id)):
            page = await here.clients.training.ListTrainingEvents(asked)
        told: list[Item] = []
        for event in page.training_events:
            parts = to_events(event, view)
            told += parts if is_ascending else parts[::-1]
        return ServicePage(told, page.next_page_token)

    return reply(await page_of(fetch, query))


@router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
async def checkpoints(job_id: str, request: Request, here: Here, project: Project) -> Response:
    view = await _job(here, project, job_id)
    query = query_of(request, default=CHECKPOINTS, maximum=PAGE_MAX)

    async def fetch(token: str, size: int) -> ServicePage:
        asked = pb.ListCheckpointsRequest(parent=_name(project, job_id), page_size=size, page_token=token)
        with answering(missing=no_job(job_id)):
            page = await here.clients.training.ListCheckpoints(asked)
        return ServicePage([to_checkpoint(checkpoint, view) for checkpoint in page.checkpoints], page.next_page_token)

    return reply(await page_of(fetch, query))


async def _wanted(here: State, project: str, body: JobBody, *, seed: int) -> pb.TrainingJob:
    if body.validation_file == body.training_file:
        message = "'validation_file' must be another file than 'training_file'."
        raise ApiError(400, message, code="invalid_value", param="validation_file")
    training = await _data(here, project, body.training_file, "training_file")
    validation = await _data(here, project, body.validation_file, "validation_file") if body.validation_file else None
    target = await here.models.resolve(project, body.model)
    if not target.base_uri:
        raise ApiError(400, f"'{body.model}' is a deployment and cannot be tuned.", code="invalid_value", param="model")
    recipe = to_recipe(
        body,
        Start(model_version=target.version) if target.version else Start(base_uri=target.base_uri),
        resolve(body.asked, rows=training.rows_by_split.get("train", training.rows)),
        training=training.name,
        validation=validation.name if validation else "",
        seed=seed if body.seed is None else body.seed,
    )
    return pb.TrainingJob(recipe=recipe, labels=body.metadata or {}, annotations={MODEL_ANNOTATION: body.model})


async def _data(here: State, project: str, file_id: str, param: str) -> ingestion_pb2.DatasetVersion:
    """The version that a file is, once it can be trained on."""
    missing = ApiError(400, f"No such File object: {file_id[:200]}", code="invalid_value", param=param)
    name = ids.dataset_version(project, file_id)
    if name is None:
        raise missing
    with answering(missing=missing):
        version = await here.clients.datasets.GetDatasetVersion(ingestion_pb2.GetDatasetVersionRequest(name=name))
    if version.state != ingestion_pb2.DatasetVersion.STATE_READY:
        state = ingestion_pb2.DatasetVersion.State.Name(version.state).removeprefix("STATE_").lower()
        message = f"The file {file_id} is {state} and cannot be trained on."
        raise ApiError(400, message, code="file_not_ready", param=param)
    return version


async def _job(here: State, project: str, job_id: str) -> JobView:
    name = _name(project, job_id)
    with answering(missing=no_job(job_id)):
        return JobView(await here.clients.training.GetTrainingJob(pb.GetTrainingJobRequest(name=name)), here.bases)


def _name(project: str, job_id: str) -> str:
    name = ids.job_name(project, job_id)
    if name is None:
        raise no_job(job_id)
    return name


@contextmanager
def _unknown_is_bad_request() -> Iterator[None]:
    """What a new job names and nobody knows is the fault of its body: 400, where a path of its own would be 404."""
    try:
        yield
    except ApiError as error:
        error.status = 400 if error.status == 404 else error.status
        raise


def _metadata_filter(request: Request) -> Callable[[pb.TrainingJob], bool]:
    """`metadata[key]=value` keeps jobs that have every pair, `metadata=null` those without any."""
    pairs = {
        name[len("metadata[") : -1]: value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if request.query_params.get("metadata") == "null":
        return lambda job: not job.labels
    return lambda job: all(job.labels.get(key) == value for key, value in pairs.items())
