"""Two processes train one job through the platform: paused together, begun again together, finished once."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest

from feinschliff.v1 import training_pb2 as pb
from tests.e2e.test_flywheel import chat_rows
from tests.support.platform import Platform
from tests.support.waiting import eventually

STEPS = 120  # 24 rows in batches of 2, 10 times


def members(platform: Platform) -> dict[int, psutil.Process]:
    """The processes of this platform's job, by their number."""
    home, found = str(platform.folder / "home"), {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("FEINSCHLIFF_HOME") == home and "RANK" in environment:
            found[int(environment["RANK"])] = process
    return found


@pytest.mark.timeout(400)
def test_a_job_of_two_processes_is_paused_and_loses_one_of_them(platform: Platform, base: str) -> None:
    version = platform.push("crew", chat_rows(24), train_fraction=1.0).name
    recipe = pb.TrainingRecipe(
        base_model=base,
        data=[pb.DataSource(dataset_version=version)],
        optimisation=pb.Optimisation(epochs=10, batch_size=2, learning_rate=1e-3),
        checkpointing=pb.Checkpointing(every_steps=20),
        processes_per_node=2,
    )
    request = pb.CreateTrainingJobRequest(parent="projects/default", training_job=pb.TrainingJob(recipe=recipe))
    name = platform.training.CreateTrainingJob(request).name

    def job() -> pb.TrainingJob:
        return platform.training.GetTrainingJob(pb.GetTrainingJobRequest(name=name))

    def wait_for(condition: Callable[[pb.TrainingJob], bool], what: str) -> None:
        eventually(lambda: condition(job()), 120, what)

    wait_for(lambda seen: seen.progress.done >= 3, "the first steps")
    assert sorted(members(platform)) == [0, 1]
    platform.training.PauseTrainingJob(pb.PauseTrainingJobRequest(name=name))
    wait_for(lambda seen: seen.state == pb.TrainingJob.STATE_PAUSED, "the pause")
    assert not members(platform)
    safe = job().progress.done
    assert 3 <= safe < STEPS
    platform.training.ResumeTrainingJob(pb.ResumeTrainingJobRequest(name=name))
    wait_for(lambda seen: seen.progress.done > safe, "a step more")
    members(platform)[1].kill()

    over = platform.wait_job(name, 150)
    assert over.state == pb.TrainingJob.STATE_SUCCEEDED, over.failure
    assert over.attempt_count == 2
    answer = platform.training.ListTrainingEvents(pb.ListTrainingEventsRequest(parent=name, page_size=1000))
    assert any("A process died" in event.message for event in answer.training_events)
    assert not members(platform)
