"""What training shows to Prometheus: queue, slots, cost, ends, and how the running jobs do."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence

from feinschliff.formats.report import CheckpointReport, Report
from feinschliff.formats.report import Metrics as StepMetrics
from feinschliff.kit.metrics import Metrics
from feinschliff.training.life import Seen, State
from feinschliff.training.slots import Slots
from feinschliff.training.store import Job
from feinschliff.workloads.warm import Start

JOBS_SHOWN_MAX = 100
SECONDS_PER_HOUR = 3600.0
_OUTCOMES = {
    Seen.FINISHED: "succeeded",
    Seen.RESUMABLE: "resumable",
    Seen.DATA_BAD: "failed",
    Seen.CRASHED: "failed",
    Seen.NOTHING: "vanished",
}
_SPEED = "feinschliff_training_job_tokens_per_second"
_OF_STEP = {
    "learning_rate": "feinschliff_training_job_learning_rate",
    "gradient_norm": "feinschliff_training_job_gradient_norm",
    "tokens_per_second": _SPEED,
}


class Meters:
    """What the reconciler counts."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def started(self, start: Start) -> None:
        """An attempt was started where processes may stand ready."""
        self._metrics.counter("feinschliff_training_attempt_starts_total").labels(start).inc()

    def stand_ready(self, workers: int) -> None:
        self._metrics.gauge("feinschliff_training_warm_workers").set(workers)

    def waited(self, seconds: float) -> None:
        self._metrics.histogram("feinschliff_training_queue_wait_seconds").observe(seconds)

    def turn_failed(self) -> None:
        self._metrics.counter("feinschliff_training_reconcile_errors_total").inc()

    def in_trouble(self, reason: str) -> None:
        self._metrics.counter("feinschliff_training_troubles_total").labels(reason).inc()

    def ran(self, job: Job, seconds: float, price_per_hour: float) -> None:
        """An attempt of the job held its machine for so long."""
        cost = seconds / SECONDS_PER_HOUR * price_per_hour
        self._metrics.counter("feinschliff_training_attempt_seconds_total").labels(job.profile).inc(seconds)
        self._metrics.counter("feinschliff_training_cost_total").labels(job.profile, project_of(job.name)).inc(cost)

    def ended(self, seen: Seen) -> None:
        """An attempt ended."""
        self._metrics.counter("feinschliff_training_attempts_total").labels(_OUTCOMES[seen]).inc()

    def finished(self, job: Job) -> None:
        """A job ended for good."""
        self._metrics.counter("feinschliff_training_jobs_finished_total").labels(job.state.value).inc()
        seconds = ((job.finished or job.updated) - job.created).total_seconds()
        self._metrics.histogram("feinschliff_training_job_seconds").labels(job.state.value).observe(seconds)

    def look(self, counts: Mapping[State, int], slots: Slots, *, in_flight: int, pending: int) -> None:
        """Where all jobs stand after a turn.

        Args:
            in_flight: attempts under way that this copy of the room looks after, those pending included.
        """
        for state in State:
            self._metrics.gauge("feinschliff_training_jobs").labels(state.value).set(counts.get(state, 0))
        self._metrics.gauge("feinschliff_training_queue_depth_jobs").set(counts.get(State.QUEUED, 0))
        self._metrics.gauge("feinschliff_training_attempts_in_flight").set(in_flight)
        self._metrics.gauge("feinschliff_training_attempts_pending").set(pending)
        for name, total, used in slots.by_profile():
            self._metrics.gauge("feinschliff_training_slots").labels(name).set(total)
            self._metrics.gauge("feinschliff_training_slots_used").labels(name).set(used)


class Live:
    """Series of jobs that run now, at most 100 of them, gone when the job is over."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._series: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
        self._speeds: dict[str, float] = {}

    def report(self, job: str, reports: Sequence[Report]) -> None:
        for report in reports:
            if isinstance(report, StepMetrics):
                self._step(job, report)
            elif isinstance(report, CheckpointReport):
                self._checkpoint(report)
        self._metrics.counter("feinschliff_training_events_stored_total").inc(len(reports))

    def energy(self, job: str, profile: str, joules: float, carbon_grams: float) -> None:
        """A running job has used so much more."""
        labels = (profile, project_of(job))
        self._metrics.counter("feinschliff_training_energy_joules_total").labels(*labels).inc(joules)
        self._metrics.counter("feinschliff_training_carbon_grams_total").labels(*labels).inc(carbon_grams)

    def memory(self, job: str, memory_bytes: int, device_bytes: int) -> None:
        self._set(job, "feinschliff_training_memory_bytes", memory_bytes)
        if device_bytes:
            self._set(job, "feinschliff_training_device_memory_bytes", device_bytes)

    def keep(self, jobs: Collection[str]) -> None:
        """Drops the series of every job that is not among these."""
        with self._lock:
            for job in self._series.keys() - set(jobs):
                for name, labels in self._series.pop(job):
                    self._metrics.gauge(name).remove(*labels)
                self._speeds.pop(job, None)
            speed = sum(self._speeds.values())
        self._metrics.gauge("feinschliff_training_tokens_per_second").set(speed)

    def _step(self, job: str, report: StepMetrics) -> None:
        if "loss" in report.values:
            self._set(job, "feinschliff_training_job_loss", report.values["loss"], report.phase)
        if report.phase != "train":
            return
        self._metrics.counter("feinschliff_training_steps_total").inc()
        self._metrics.counter("feinschliff_training_trained_tokens_total").inc(report.values.get("tokens", 0))
        self._set(job, "feinschliff_training_job_step", report.step)
        self._set(job, "feinschliff_training_job_steps", report.steps_total)
        for value, name in _OF_STEP.items():
            if value in report.values:
                self._set(job, name, report.values[value])

    def _checkpoint(self, report: CheckpointReport) -> None:
        self._metrics.counter("feinschliff_training_checkpoints_total").inc()
        self._metrics.counter("feinschliff_training_checkpoint_bytes_total").inc(report.values.get("bytes", 0))
        if "seconds" in report.values:
            seconds = self._metrics.histogram("feinschliff_training_checkpoint_seconds")
            seconds.observe(report.values["seconds"])

    def _set(self, job: str, name: str, value: float, *more: str) -> None:
        labels = (project_of(job), short_name(job), *more)
        with self._lock:
            if job not in self._series and len(self._series) >= JOBS_SHOWN_MAX:
                return
            self._series.setdefault(job, set()).add((name, labels))
            self._metrics.gauge(name).labels(*labels).set(value)
            if name == _SPEED:
                self._speeds[job] = value


def project_of(job: str) -> str:
    """`p` of `projects/p/trainingJobs/j`."""
    return job.split("/")[1]


def short_name(job: str) -> str:
    """`j` of `projects/p/trainingJobs/j`."""
    return job.rsplit("/", 1)[1]
