"""A job's numbers as the CSV that OpenAI lists under `result_files`: made from the metrics whenever it is read."""

from __future__ import annotations

import csv
import io

from pydantic import JsonValue

from feinschliff.gateway import ids
from feinschliff.gateway.clients import Clients
from feinschliff.gateway.errors import answering, no_file
from feinschliff.gateway.events import metric_values
from feinschliff.gateway.files import RESULTS
from feinschliff.gateway.jobs import FINAL, seconds
from feinschliff.v1 import training_pb2 as pb

COLUMNS = (
    "step",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
POINTS_PER_PAGE = 10_000


class Results:
    """The result file of each job that is over and has made a step."""

    def __init__(self, clients: Clients) -> None:
        self._training = clients.training

    async def show(self, project: str, file_id: str) -> dict[str, JsonValue]:
        """The file object."""
        job = await self._job(project, file_id)
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(await self._text(job.name, file_id)),
            "created_at": seconds(job.finish_time),
            "expires_at": None,
            "filename": f"{ids.last_part(job.name)}_metrics.csv",
            "purpose": RESULTS,
            "status": "processed",
            "status_details": None,
        }

    async def content(self, project: str, file_id: str) -> bytes:
        job = await self._job(project, file_id)
        return await self._text(job.name, file_id)

    async def _job(self, project: str, file_id: str) -> pb.TrainingJob:
        job_id = ids.job_of_result(file_id)
        name = ids.job_name(project, job_id) if job_id else None
        if name is None:
            raise no_file(file_id)
        with answering(missing=no_file(file_id)):
            job = await self._training.GetTrainingJob(pb.GetTrainingJobRequest(name=name))
        if job.state not in FINAL or not job.metrics.step:
            raise no_file(file_id)
        return job

    async def _text(self, job_name: str, file_id: str) -> bytes:
        rows: dict[int, dict[str, JsonValue]] = {}
        request = pb.ListTrainingMetricsRequest(parent=job_name, page_size=POINTS_PER_PAGE)
        while True:
            with answering(missing=no_file(file_id)):
                page = await self._training.ListTrainingMetrics(request)
            for point in page.points:
                rows.setdefault(point.step, {"step": point.step}).update(metric_values(point))
            if not page.next_page_token:
                return to_csv(rows)
            request.page_token = page.next_page_token


def to_csv(rows: dict[int, dict[str, JsonValue]]) -> bytes:
    """One line a step, in order; a cell is empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for _, row in sorted(rows.items()):
        writer.writerow(row | {"train_accuracy": row.get("train_mean_token_accuracy", "")})
    return text.getvalue().encode()
