"""Trackers are looked at when a job is made, and its attempts get the secrets that they need."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feinschliff.kit.errors import Invalid, WrongState
from feinschliff.training.acts import workload_of
from feinschliff.training.jobs import Jobs, Order
from feinschliff.training.proto import from_recipe, to_job, to_recipe
from feinschliff.training.trackers import TrackerRules
from feinschliff.v1 import training_pb2 as pb
from feinschliff.workloads.profiles import Profile, Profiles
from tests.contract.training.conftest import Models, Training
from tests.support.scripted_runner import ScriptedRunner

PROFILES = Profiles(default="cpu", profiles=(Profile(name="cpu", secrets=("team",)),))


def order(training: Training, *, secret: str, uri: str = "http://mlflow:5000") -> Order:
    made = training.order()
    wire = from_recipe(made.recipe)
    mlflow = pb.MlflowTracker(tracking_uri=uri, experiment="routing", credentials_secret=secret)
    wire.trackers.add(mlflow=mlflow)
    return replace(made, recipe=to_recipe(wire))


@pytest.fixture
def jobs(training: Training) -> Jobs:
    training.jobs = Jobs(
        training.database,
        training.store,
        training.datasets,
        Models(),
        lambda uri: None,
        PROFILES,
        clock=training.clock,
        wake=training.wake,
        check_trackers=TrackerRules(offline=True).check,
    )
    return training.jobs


def test_a_job_is_not_made_with_what_is_not_here(training: Training, jobs: Jobs) -> None:
    with pytest.raises(Invalid) as unknown:
        jobs.create(order(training, secret="database"))
    assert unknown.value.reason == "TRACKER_SECRET_UNKNOWN"
    assert unknown.value.fields[0].field == "training_job.recipe.trackers[0].mlflow.credentials_secret"
    with pytest.raises(WrongState) as outside:
        jobs.create(order(training, secret="team", uri="https://mlflow.example.com"), validate_only=True)
    assert outside.value.reason == "TRACKER_OUTSIDE"


def test_a_job_tells_the_id_that_its_run_has_and_takes_none(training: Training) -> None:
    wire = from_recipe(training.order().recipe)
    wire.trackers.add(wandb=pb.WandbTracker(project="routing", run_id="mine"))
    job = training.jobs.create(replace(training.order(), recipe=to_recipe(wire)))
    assert to_job(job).resolved_recipe.trackers[0].wandb.run_id == job.uid


def test_its_attempts_get_the_secrets_that_it_names(training: Training, jobs: Jobs) -> None:
    runner = ScriptedRunner()
    named, plain = jobs.create(order(training, secret="team")), jobs.create(training.order())
    profiles = Profiles(default="cpu", profiles=(PROFILES.profiles[0].model_copy(update={"slots": 2}),))
    training.reconciler(runner=runner, profiles=profiles).turn()
    assert runner.specs[workload_of(jobs.get(named.name))].secrets == ("team",)
    assert runner.specs[workload_of(jobs.get(plain.name))].secrets == ()
