"""A training job while it runs: its events as lines, its newest numbers beside the bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from feinschliff.cli.following import follow
from feinschliff.cli.output import Output, number, seconds
from feinschliff.cli.progress import ProgressView
from feinschliff.cli.services import Services
from feinschliff.cli.words import state
from feinschliff.v1 import training_pb2 as pb

FINAL = {pb.TrainingJob.STATE_SUCCEEDED, pb.TrainingJob.STATE_FAILED, pb.TrainingJob.STATE_CANCELLED}
_STYLES = {pb.TrainingEvent.LEVEL_WARNING: "yellow", pb.TrainingEvent.LEVEL_ERROR: "red"}


def watch(services: Services, job: str, *, cursor: int = 0) -> Iterator[pb.WatchTrainingJobResponse]:
    """All events of a job from `cursor` on, until it is over."""

    def open_stream(at: int) -> Iterator[pb.WatchTrainingJobResponse]:
        return services.training.WatchTrainingJob(pb.WatchTrainingJobRequest(name=job, cursor=at))

    return follow(open_stream, lambda response: response.job.state in FINAL, cursor=cursor)


def watch_on(
    output: Output, services: Services, job: str, *, title: str, cursor: int = 0, is_silent: bool = False
) -> pb.TrainingJob:
    """Shows a job until it is over, as JSON lines or as a bar with events, or not at all; the job as it ended."""
    last: pb.TrainingJob | None = None
    with ProgressView(output.err, title, is_silent=output.as_json) as view:
        shown = JobView(view)
        for response in watch(services, job, cursor=cursor):
            if not output.as_json:
                shown.take(response)
            elif not is_silent:
                output.line(response)
            if response.HasField("job"):
                last = response.job
    assert last is not None, "following ends with a final state"
    return last


class JobView:
    """Turns responses into what a `ProgressView` shows."""

    def __init__(self, view: ProgressView) -> None:
        self._view = view
        self._done = self._total = 0
        self._numbers: Mapping[str, float] = {}
        self._validation: float | None = None
        self._eta_seconds: float | None = None
        self._doing = ""

    def take(self, response: pb.WatchTrainingJobResponse) -> None:
        if response.HasField("job"):
            self._doing = doing(response.job)
            self._total = max(self._total, response.job.metrics.steps_total, response.job.progress.total)
        if response.HasField("event"):
            self._take_event(response.event)
        self._view.at(self._done, self._total, self._line(), doing=self._doing)

    def _take_event(self, event: pb.TrainingEvent) -> None:
        if event.WhichOneof("detail") != "metrics":
            if event.message:
                self._view.say(event.message, _STYLES.get(event.level, ""))
            return
        point = event.metrics
        self._done, self._total = max(self._done, point.step), max(self._total, point.steps_total)
        if point.phase == pb.MetricPoint.PHASE_VALIDATION:
            self._validation = point.values.get("loss")
            self._view.say(f"step {point.step}: validation loss {number(self._validation)}")
            return
        self._numbers = dict(point.values)
        self._eta_seconds = point.eta_seconds if point.HasField("eta_seconds") else None

    def _line(self) -> str:
        said = {
            "loss": number(self._numbers.get("loss")),
            "val": number(self._validation),
            "lr": number(self._numbers.get("learning_rate"), 3),
            "tok/s": number(self._numbers.get("tokens_per_second"), 4),
            "eta": seconds(self._eta_seconds) if self._eta_seconds is not None else "-",
        }
        return "  ".join(f"{name} {value}" for name, value in said.items() if value != "-")


def doing(job: pb.TrainingJob) -> str:
    """`running, training`: the state, and the stage of a running attempt."""
    words = [state(pb.TrainingJob.State.Name, job.state).lower()]
    if job.state == pb.TrainingJob.STATE_RUNNING and job.stage:
        words.append(pb.TrainingJob.Stage.Name(job.stage).removeprefix("STAGE_").lower())
    return ", ".join(words)
