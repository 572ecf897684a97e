"""The two ends that reports go to: the training service, or a file."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import orjson
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from feinschliff.artifacts.uri import s3_uri
from feinschliff.formats.report import CheckpointReport, Failure, Metrics, Notice, Progress, Report
from feinschliff.formats.runfile import Runfile
from feinschliff.kit.client import sync_channel
from feinschliff.kit.errors import from_rpc_error
from feinschliff.trainer.energy import Energy
from feinschliff.trainer.progress import Asked, Posted
from feinschliff.trainer.stop import Why
from feinschliff.v1 import common_pb2, training_pb2, training_pb2_grpc

CALL_SECONDS = 20.0

_ASKED: Mapping[int, Asked] = {
    training_pb2.Command.KIND_CANCEL: Asked(Why.CANCELLED),
    training_pb2.Command.KIND_PAUSE: Asked(Why.PAUSED),
    training_pb2.Command.KIND_CHECKPOINT: Asked(save_now=True),
}


class FileLink:
    """Appends each report as a JSON line; for one-process use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def send(self, reports: Sequence[Posted]) -> Asked:
        with self._path.open("ab") as file:
            file.writelines(orjson.dumps(posted.model_dump(mode="json")) + b"\n" for posted in reports)
        return Asked()

    def finish(self, *, result_prefix: str = "", failure: Failure | None = None) -> None:
        pass


class ServiceLink:
    """Speaks to WorkerService in the name of one attempt."""

    def __init__(
        self, address: str, *, attempt: str, token: str, bucket: str, energy: Callable[[], Energy | None] = lambda: None
    ) -> None:
        self._energy = energy
        self._attempt = attempt
        self._bucket = bucket
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._sequence = 0
        self._lock = threading.Lock()
        channel = sync_channel(address, name="training", services=("feinschliff.v1.WorkerService",))
        self._stub = training_pb2_grpc.WorkerServiceStub(channel)

    def runfile(self) -> Runfile:
        """What the attempt is to do.

        Raises:
            Refusal: what the service answered.
        """
        request = training_pb2.GetRunfileRequest(attempt=self._attempt)
        response = self._call(self._stub.GetRunfile, request)
        return Runfile.model_validate(_whole_numbers(MessageToDict(response.runfile)))

    def send(self, reports: Sequence[Posted]) -> Asked:
        with self._lock:
            messages = list(self._messages(reports))
        response = self._call(self._stub.Report, iter(messages))
        asked = [_ASKED.get(command.kind, Asked()) for command in response.commands]
        return Asked(
            why=next((one.why for one in asked if one.why is not None), None),
            save_now=any(one.save_now for one in asked),
        )

    def finish(self, *, result_prefix: str = "", failure: Failure | None = None) -> None:
        request = training_pb2.FinishRequest(
            attempt=self._attempt,
            outcome=training_pb2.FinishRequest.OUTCOME_INTERRUPTED,
            last_sequence=self._sequence,
        )
        if result_prefix:
            request.outcome = training_pb2.FinishRequest.OUTCOME_SUCCEEDED
            request.result.CopyFrom(common_pb2.ArtifactRef(uri=folder_uri(self._bucket, result_prefix)))
        if failure is not None:
            request.outcome = training_pb2.FinishRequest.OUTCOME_FAILED
            request.failure.CopyFrom(common_pb2.Failure(**failure.model_dump()))
        self._call(self._stub.Finish, request)

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=CALL_SECONDS, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _messages(self, reports: Iterable[Posted]) -> Iterator[training_pb2.ReportRequest]:
        for posted in reports:
            yield self._numbered(to_message(posted, bucket=self._bucket))
        alive = training_pb2.Heartbeat(memory_bytes=_memory(), device_memory_bytes=_device_memory())
        used = self._energy()
        if used is not None:
            alive.energy_joules, alive.energy_source = used
        yield self._numbered(training_pb2.ReportRequest(heartbeat=alive))

    def _numbered(self, message: training_pb2.ReportRequest) -> training_pb2.ReportRequest:
        self._sequence += 1
        message.attempt, message.sequence = self._attempt, self._sequence
        return message


def folder_uri(bucket: str, prefix: str) -> str:
    return s3_uri(bucket, prefix) + "/"


def to_message(posted: Posted, *, bucket: str) -> training_pb2.ReportRequest:
    """A report in the service's words, without attempt and sequence."""
    message = training_pb2.ReportRequest(time=_moment(posted.time))
    report: Report = posted.report
    match report:
        case Progress():
            message.stage = training_pb2.TrainingJob.Stage.Value(f"STAGE_{report.stage.upper()}")
            message.progress.CopyFrom(_progress(report, posted.time))
        case Metrics():
            message.key = report.key
            message.metrics.CopyFrom(_metric_point(report, posted.time))
        case CheckpointReport():
            message.key = report.key
            message.checkpoint.CopyFrom(_checkpoint(report, bucket))
        case Notice():
            message.key = report.key
            level = training_pb2.TrainingEvent.Level.Value(f"LEVEL_{report.level.upper()}")
            message.event.CopyFrom(training_pb2.TrainingEvent(key=report.key, level=level, message=report.message))
    return message


def _progress(report: Progress, time: datetime) -> common_pb2.Progress:
    progress = common_pb2.Progress(
        fraction=report.step / report.steps_total if report.steps_total else 0.0,
        done=report.step,
        total=report.steps_total,
        unit="steps",
    )
    if report.eta_seconds is not None:
        progress.eta.CopyFrom(_moment(time + timedelta(seconds=report.eta_seconds)))
    return progress


def _checkpoint(report: CheckpointReport, bucket: str) -> training_pb2.Checkpoint:
    sha256 = report.digest.removeprefix("sha256:")
    return training_pb2.Checkpoint(
        step=report.step,
        artifact=common_pb2.ArtifactRef(uri=folder_uri(bucket, report.prefix), sha256=sha256),
        digest=report.digest,
        metrics=report.values,
        best=report.best,
    )


def _metric_point(report: Metrics, time: datetime) -> training_pb2.MetricPoint:
    return training_pb2.MetricPoint(
        step=report.step,
        steps_total=report.steps_total,
        epoch=report.epoch,
        phase=training_pb2.MetricPoint.Phase.Value(f"PHASE_{report.phase.upper()}"),
        values=report.values,
        trained_tokens=report.trained_tokens,
        eta_seconds=report.eta_seconds,
        time=_moment(time),
    )


def _moment(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _whole_numbers(value: Any) -> Any:
    """A Struct knows only floating-point numbers; give whole ones back as integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return value


def _memory() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _device_memory() -> int:
    """Bytes that this process holds on its GPU; 0 without one, and before torch is in use.

    Another thread may be importing torch just now: then its module is there, and not yet what it holds.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)
    if cuda is None or is_initialized is None or not is_initialized():
        return 0
    return int(cuda.memory_reserved())
