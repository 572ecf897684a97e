"""Before it runs: what a job would take, why it would fail, and that one which cannot fit never starts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from feinschliff.artifacts.outlines import Outline, outline
from feinschliff.formats.adaptations import Full, LastLayers, Lora
from feinschliff.formats.optimisation import Optimisation
from feinschliff.formats.recipe import Recipe
from feinschliff.formats.records import Message, Record
from feinschliff.kit.errors import Invalid, WrongState
from feinschliff.training import store
from feinschliff.training.jobs import Jobs, move
from feinschliff.training.life import State
from feinschliff.training.lists import Lists
from feinschliff.training.logs import Logs
from feinschliff.training.plan import JobPlan, Planner
from feinschliff.training.rows import Drawn
from feinschliff.training.service import Offer, TrainingService
from feinschliff.training.speeds import Speeds
from feinschliff.v1 import common_pb2
from feinschliff.v1 import training_pb2 as pb
from feinschliff.workloads.profiles import Profile, Profiles, local_profiles
from tests.contract.training.conftest import DATASET, PARENT, Models, Training
from tests.support.scripted_runner import ScriptedRunner
from tests.support.trainer import rows

NO_CONTEXT: Any = None
PROFILES = Profiles(
    default="roomy",
    currency="CHF",
    profiles=(
        Profile(name="roomy", price_per_hour=3.6, processes_max=2, resources={"limits": {"memory": "64Gi"}}),
        Profile(name="narrow", resources={"limits": {"memory": "256Mi"}}),
        Profile(name="tight", resources={"limits": {"memory": "700Mi"}}),
    ),
)


class Rows:
    """What ingestion would give of every version."""

    def __init__(self, records: Sequence[Record], in_all: int = 0) -> None:
        self.records = list(records)
        self.in_all = in_all

    def draw(self, dataset_version: str, splits: Sequence[str], rows_max: int) -> Drawn:
        return Drawn(self.records[:rows_max], self.in_all or len(self.records))


class Place:
    """A planner with jobs that it checks, on the tiny model."""

    def __init__(self, training: Training, base: Path, records: Sequence[Record]) -> None:
        self.training = training
        self.rows = Rows(records)
        self.base = f"file:{base}"

        def look(uri: str) -> Outline | None:
            return outline(uri, training.store, training.folder, offline=True, local=False)

        speeds = Speeds(training.database)
        self.planner = Planner(self.rows, look, speeds, PROFILES, local=False)
        self.jobs = Jobs(
            training.database,
            training.store,
            training.datasets,
            Models(),
            lambda uri: None,
            PROFILES,
            clock=training.clock,
            wake=training.wake,
            check_fit=self.planner.refuse_what_cannot_fit,
        )

    def recipe(self, **changes: Any) -> Recipe:
        recipe = self.training.order().recipe
        return recipe.model_copy(update={"base_model": self.base, "precision": "fp32", **changes})

    def plan(self, **changes: Any) -> JobPlan:
        order = self.training.order(recipe=self.recipe(**changes))
        return self.planner.plan(self.jobs.create(order, validate_only=True))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def place(training: Training, tiny_model: Path) -> Place:
    training.datasets.rows = {"train": 40, "validation": 10}
    return Place(training, tiny_model, rows(40))


def codes(plan: JobPlan) -> set[str]:
    return {one.code for one in plan.findings}


def test_a_plan_says_what_the_job_would_do(place: Place) -> None:
    plan = place.plan(optimisation=Optimisation(epochs=5, batch_size=4, learning_rate=2e-4))
    assert (plan.work.steps, plan.work.rows_per_epoch, plan.validation_rows) == (50, 40, 40)
    assert plan.work.tokens > plan.work.labels > 0
    assert plan.architecture is not None
    assert plan.trained < plan.architecture.total_parameters
    assert plan.memory.low < plan.memory.expected < plan.memory.high < plan.memory.limit == 64 * 1024**3
    assert plan.memory.fits
    assert plan.duration is None, "nothing like it ran here yet"
    assert plan.findings == ()
    assert Lists(place.training.database).jobs(PARENT, "", 0, "", "").items == [], "a plan stores nothing"


def test_rows_that_the_trainer_would_refuse_are_found_before(place: Place) -> None:
    place.rows.records += [
        Record(messages=[Message(role="user", content="no answer")], line=41),
        Record(messages=[Message(role="user", content="a"), Message(role="assistant", content="b" * 400)], line=42),
    ]
    plan = place.plan(optimisation=Optimisation(max_row_tokens=128, learning_rate=1e-3))
    found = {one.code: one for one in plan.findings}
    assert found["ROW_WITHOUT_ANSWER"].rows == (41,)
    assert found["ROW_TOO_LONG"].rows == (42,)
    assert str(plan.row_tokens_max) in found["ROW_TOO_LONG"].advice
    assert [one.severity for one in plan.findings] == sorted((one.severity for one in plan.findings), reverse=True)


def test_a_sample_counts_for_all(place: Place) -> None:
    place.rows.in_all = 4000
    place.training.datasets.rows = {"train": 4000}
    plan = place.plan(optimisation=Optimisation(epochs=1, batch_size=8, learning_rate=1e-3))
    assert (plan.work.steps, plan.sources[0].sampled) == (500, True)


def test_what_the_base_has_not_is_found(place: Place) -> None:
    assert "LAYERS_TOO_MANY" in codes(place.plan(adaptation=LastLayers(layers=9)))
    assert "TARGET_MODULES_UNKNOWN" in codes(place.plan(adaptation=Lora(target_modules=["nope_proj"])))
    assert "STEPS_FEW" in codes(place.plan(optimisation=Optimisation(epochs=1, learning_rate=1e-3)))


def test_rows_longer_than_the_context_of_the_base_are_doubtful(place: Place) -> None:
    assert "CONTEXT_EXCEEDED" not in codes(place.plan())
    talk = [Message(role="user", content="a"), Message(role="assistant", content="z" * 600)]
    place.rows.records.append(Record(messages=talk, line=41))
    assert "CONTEXT_EXCEEDED" in codes(place.plan())


def test_a_base_that_only_the_trainer_sees_is_said_to_be_unknown(place: Place) -> None:
    plan = place.plan(base_model="file:/models/elsewhere")
    assert codes(plan) == {"BASE_NOT_VISIBLE"}
    assert (plan.memory.parts, plan.memory.fits, plan.work.steps) == ((), True, 0)


def test_a_job_that_cannot_fit_is_refused_before_it_starts(place: Place) -> None:
    order = place.training.order(recipe=place.recipe(execution_profile="narrow"))
    with pytest.raises(WrongState) as refused:
        place.jobs.create(order)
    assert refused.value.reason == "MEMORY_INSUFFICIENT"
    assert refused.value.fields[0].field == "training_job.recipe.execution_profile"
    assert refused.value.advice
    assert Lists(place.training.database).jobs(PARENT, "", 0, "", "").items == []
    plan = place.plan(execution_profile="narrow")
    assert not plan.memory.fits
    assert "MEMORY_INSUFFICIENT" in codes(plan)
    place.jobs.create(place.training.order(recipe=place.recipe(execution_profile="roomy")))


def test_processes_share_the_memory_of_a_node(place: Place) -> None:
    whole, half = place.plan(), place.plan(processes_per_node=2)
    assert half.memory.limit == whole.memory.limit // 2


def test_advice_names_changes_that_fit(place: Place) -> None:
    """Many long rows at once: the activations are too much, and computing them twice is not."""
    talk = [Message(role="user", content="x" * 100), Message(role="assistant", content="help me please " * 2000)]
    place.rows.records = [Record(messages=talk, line=k + 1) for k in range(40)]
    settings = Optimisation(batch_size=64, micro_batch_tokens=1_000_000, max_row_tokens=131_072, learning_rate=1e-3)
    plan = place.plan(execution_profile="tight", optimisation=settings, adaptation=Full())
    found = next(one for one in plan.findings if one.code in ("MEMORY_INSUFFICIENT", "MEMORY_SCARCE"))
    assert "gradient_checkpointing" in found.advice or "profile" in found.advice


def finish(place: Place, *, seconds: float, tokens_per_second: float, **changes: Any) -> None:
    """A job that ran to its end."""
    training = place.training
    job = place.jobs.create(training.order(recipe=place.recipe(**changes)))
    started = training.clock.now()
    training.clock.advance(seconds)
    with training.database.transaction() as session:
        current = store.get_job(session, job.name)
        assert current is not None
        current = move(session, current, State.RUNNING, started, attempt=1, started=started)
        metrics = {"tokens_per_second": tokens_per_second, "trained_tokens": tokens_per_second * (seconds - 20)}
        move(session, current, State.SUCCEEDED, started + timedelta(seconds=seconds), metrics=metrics)


def test_time_and_price_come_from_earlier_jobs(place: Place) -> None:
    for speed in (900.0, 1000.0, 1100.0):
        finish(place, seconds=120, tokens_per_second=speed)
    plan = place.plan()
    assert plan.duration is not None
    assert plan.duration.speed.expected == pytest.approx(1000)
    assert (plan.duration.speed.samples, plan.duration.speed.kind) == (3, "same")
    assert plan.duration.seconds == pytest.approx(20 + plan.work.tokens / 1000)
    assert plan.duration.low < plan.duration.seconds < plan.duration.high
    assert plan.duration.price == pytest.approx(plan.duration.seconds / 1000)
    assert place.plan(execution_profile="tight").duration is None, "another machine is another speed"


def test_several_processes_are_not_taken_for_as_fast_as_one(place: Place) -> None:
    finish(place, seconds=60, tokens_per_second=1000.0)
    one, two = place.plan(), place.plan(processes_per_node=2)
    assert one.duration is not None
    assert two.duration is not None
    assert (one.duration.speed.kind, two.duration.speed.kind) == ("same", "base")


def test_another_adaptation_is_reckoned_by_its_work(place: Place) -> None:
    finish(place, seconds=60, tokens_per_second=1000.0, adaptation=Full(train_embeddings=True))
    alike, other = place.plan(adaptation=Full(train_embeddings=True)), place.plan(adaptation=LastLayers(layers=1))
    assert alike.duration is not None
    assert other.duration is not None
    assert (alike.duration.speed.kind, other.duration.speed.kind) == ("same", "base")
    assert other.duration.speed.expected > alike.duration.speed.expected
    spread = other.duration.speed.high / other.duration.speed.low
    assert spread > alike.duration.speed.high / alike.duration.speed.low


def door(place: Place) -> TrainingService:
    training = place.training
    return TrainingService(
        place.jobs,
        place.planner,
        Lists(training.database),
        Logs(training.database, training.store, ScriptedRunner()),
        Offer(lambda uri: None, ["roomy"]),
        training.metrics,
        training.wake,
    )


def request(place: Place, **changes: Any) -> pb.TrainingJob:
    recipe = pb.TrainingRecipe(base_model=place.base, data=[pb.DataSource(dataset_version=DATASET)], **changes)
    return pb.TrainingJob(recipe=recipe)


def test_the_door_answers_a_plan_with_all_its_parts(place: Place) -> None:
    place.rows.records.append(Record(messages=[Message(role="user", content="no answer")], line=41))
    asked = pb.PlanTrainingJobRequest(parent=PARENT, training_job=request(place))
    told = asyncio.run(door(place).PlanTrainingJob(asked, NO_CONTEXT))
    assert told.resolved_recipe.lora.rank == 16
    assert told.memory_bytes == sum(part.bytes_expected for part in told.memory_parts)
    assert told.memory_bytes_low <= told.memory_bytes <= told.memory_bytes_high
    assert (told.unanswered_rows, told.fits, told.currency, told.steps) == (1, True, "CHF", 15)
    assert not told.HasField("seconds")
    finding = told.findings[0]
    assert (finding.severity, finding.code, list(finding.rows)) == (
        common_pb2.SEVERITY_ERROR,
        "ROW_WITHOUT_ANSWER",
        [41],
    )


def test_to_validate_a_job_is_to_plan_it(place: Place) -> None:
    asked = pb.CreateTrainingJobRequest(parent=PARENT, training_job=request(place), validate_only=True)
    told = asyncio.run(door(place).CreateTrainingJob(asked, NO_CONTEXT))
    assert told.name == ""
    place.rows.records.append(Record(messages=[Message(role="user", content="no answer")], line=41))
    with pytest.raises(Invalid) as refused:
        asyncio.run(door(place).CreateTrainingJob(asked, NO_CONTEXT))
    assert refused.value.reason == "ROW_WITHOUT_ANSWER"
    made = pb.CreateTrainingJobRequest(parent=PARENT, training_job=request(place))
    assert asyncio.run(door(place).CreateTrainingJob(made, NO_CONTEXT)).name, "a create reads no rows, so it is fast"


def test_this_machine_is_the_limit_where_no_profile_says_one(training: Training, tiny_model: Path) -> None:
    def look(uri: str) -> Outline | None:
        return outline(uri, training.store, training.folder, offline=True, local=True)

    planner = Planner(Rows(rows(8)), look, Speeds(training.database), local_profiles(1), local=True)
    recipe = replace(training.order()).recipe.model_copy(update={"base_model": f"file:{tiny_model}"})
    job = training.jobs.create(training.order(recipe=recipe), validate_only=True)
    plan = planner.plan(job)
    assert plan.memory.limit > 0
    planner.refuse_what_cannot_fit(job)
