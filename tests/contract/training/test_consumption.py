"""What a job has used is told while it runs and stays with it: time, energy, carbon and price, over all attempts."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from feinschliff.training.acts import workload_of
from feinschliff.training.attempts import Attempts
from feinschliff.training.consumption import Tariff, used_by
from feinschliff.training.meters import Live
from feinschliff.training.proto import to_job
from feinschliff.training.service import WorkerService
from feinschliff.training.store import Job
from feinschliff.v1 import training_pb2 as pb
from feinschliff.workloads import status
from feinschliff.workloads.profiles import Profile, Profiles
from tests.contract.training.conftest import Training
from tests.support.scripted_runner import ScriptedRunner

PROFILES = Profiles(default="cpu", currency="CHF", profiles=(Profile(name="cpu", price_per_hour=1.8),))


class Bench:
    """A job under way on a machine with a price, and the door that its attempts speak to."""

    def __init__(self, training: Training, carbon: float) -> None:
        training.use(PROFILES)
        self.training = training
        self.runner = ScriptedRunner()
        self.attempts = Attempts(training.database, Tariff(PROFILES, carbon), clock=training.clock, wake=training.wake)
        self.door = WorkerService(self.attempts, Live(training.metrics), training.clock)
        self.reconciler = training.reconciler(runner=self.runner, profiles=PROFILES)
        self.name = training.jobs.create(training.order()).name

    def begin(self) -> Job:
        """The next attempt runs."""
        self.reconciler.turn()
        self.runner.show(workload_of(self.job), state=status.State.RUNNING)
        self.reconciler.turn()
        return self.job

    @property
    def job(self) -> Job:
        return self.training.jobs.get(self.name)

    @property
    def token(self) -> str:
        return self.runner.specs[workload_of(self.job)].secret_env["FEINSCHLIFF_ATTEMPT_TOKEN"]

    def tell(self, joules: float, source: str = "model") -> None:
        """A sign of life with what the attempt has used so far."""
        context: Any = SimpleNamespace(invocation_metadata=lambda: [("authorization", f"Bearer {self.token}")])
        heartbeat = pb.Heartbeat(energy_joules=joules, energy_source=source)

        async def signs() -> Any:
            yield pb.ReportRequest(attempt=self.job.attempt_name, sequence=1, heartbeat=heartbeat)

        asyncio.run(self.door.Report(signs(), context))


def test_time_energy_carbon_and_price_add_up_over_attempts(training: Training) -> None:
    bench = Bench(training, carbon=400.0)
    bench.begin()
    training.clock.advance(100)
    bench.tell(3.6e6)
    told = to_job(bench.job).consumption
    assert (told.machine_seconds, told.energy_joules, told.energy_source) == (100.0, 3.6e6, "model")
    assert (told.carbon_grams, told.price, told.currency) == (400.0, pytest.approx(0.05), "CHF")

    training.jobs.pause(bench.name)
    bench.runner.show(workload_of(bench.job), state=status.State.EXITED, exit_code=75)
    bench.reconciler.turn()
    training.clock.advance(50)  # paused: it holds no machine
    training.jobs.resume(bench.name)
    bench.begin()
    assert bench.attempts.runfile(bench.job.attempt_name, bench.token).energy_before == 3.6e6
    training.clock.advance(20)
    bench.tell(1.8e6, "rapl")
    told = to_job(bench.job).consumption
    assert (told.machine_seconds, told.energy_joules, told.energy_source) == (120.0, 5.4e6, "model+rapl")
    assert told.carbon_grams == 600.0

    shown = {"profile": "cpu", "project": "default"}
    assert training.metrics.value("feinschliff_training_energy_joules_total", **shown) == 5.4e6
    assert training.metrics.value("feinschliff_training_carbon_grams_total", **shown) == 600.0


def test_what_cannot_be_known_is_absent(training: Training) -> None:
    bench = Bench(training, carbon=0.0)
    assert not to_job(bench.begin()).HasField("consumption")
    training.clock.advance(10)
    training.jobs.cancel(bench.name)
    bench.runner.show(workload_of(bench.job), state=status.State.EXITED, exit_code=75)
    bench.reconciler.turn()
    told = to_job(bench.job).consumption
    assert told.machine_seconds == 10.0
    assert not told.HasField("energy_joules")
    assert not told.HasField("carbon_grams")
    assert used_by(bench.job).sources == ()


def test_an_attempt_learns_who_its_job_is(training: Training) -> None:
    bench = Bench(training, carbon=0.0)
    job = bench.begin()
    runfile = bench.attempts.runfile(job.attempt_name, bench.token)
    assert (runfile.job_uid, runfile.energy_before) == (job.uid, 0.0)
