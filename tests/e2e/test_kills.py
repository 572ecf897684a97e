"""kill -9 of the trainer and of every service during a job: it succeeds, nothing is lost or doubled, same weights."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import grpc
import psutil
import pytest

from feinschliff.artifacts.commit import read_manifest
from feinschliff.v1 import training_pb2 as pb
from tests.e2e.test_flywheel import chat_rows
from tests.support.platform import ROOMS, Platform
from tests.support.waiting import eventually

RECIPE = {"epochs": 12, "batch_size": 4, "learning_rate": 1e-3}
STEPS = 156  # 52 training rows in batches of 4, 12 times


class Watcher(threading.Thread):
    """Follows a job by its cursor and reconnects whenever the stream breaks."""

    def __init__(self, platform: Platform, job: str, steps: int = STEPS) -> None:
        super().__init__(daemon=True)
        self.platform, self.job, self.steps_total = platform, job, steps
        self.events: list[pb.TrainingEvent] = []
        self.breaks = 0
        self.over = False

    def run(self) -> None:
        cursor = 0
        while not self.over:
            try:
                request = pb.WatchTrainingJobRequest(name=self.job, cursor=cursor)
                for seen in self.platform.training.WatchTrainingJob(request, timeout=200):
                    cursor = seen.cursor
                    if seen.HasField("event"):
                        self.events.append(seen.event)
                self.over = True
            except grpc.RpcError:
                self.breaks += 1

    def steps(self) -> list[int]:
        train = pb.MetricPoint.PHASE_TRAIN
        return [
            event.metrics.step
            for event in list(self.events)
            if event.HasField("metrics") and event.metrics.phase == train
        ]

    def wait_step(self, step: int) -> None:
        eventually(lambda: max(self.steps(), default=0) >= step, 90, f"step {step} of {self.job}")

    def check_complete(self) -> None:
        """Every event once, in order, and every step's numbers among them."""
        self.join(60)
        cursors = [event.cursor for event in self.events]
        assert cursors == list(range(1, len(cursors) + 1))
        assert len({event.key for event in self.events}) == len(self.events)
        assert sorted(self.steps()) == list(range(1, self.steps_total + 1))


def trainers(platform: Platform) -> list[psutil.Process]:
    """The trainer processes of this platform, with those that watch over them."""
    home = str(platform.folder / "home")
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-1:] == ["feinschliff.trainer"] and process.environ().get("FEINSCHLIFF_HOME") == home:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def adapter_hash(platform: Platform, job: str) -> str:
    manifest = read_manifest(platform.s3.store(platform.bucket), f"{job}/result")
    assert manifest is not None
    return manifest.files["adapter_model.safetensors"].sha256


@pytest.fixture(scope="module")
def dataset(platform: Platform) -> str:
    """A version with exactly 52 training rows."""
    content = chat_rows(52)
    return platform.push("kills", content, train_fraction=1.0).name


@pytest.fixture(scope="module")
def calm(platform: Platform, dataset: str, base: str) -> str:
    """The adapter of a run that nobody disturbed."""
    job = platform.train(dataset, base, **RECIPE)
    assert platform.wait_job(job.name).state == pb.TrainingJob.STATE_SUCCEEDED
    return adapter_hash(platform, job.name)


@pytest.mark.timeout(400)
def test_a_trainer_killed_three_times_ends_as_the_undisturbed_one(
    platform: Platform, dataset: str, base: str, calm: str
) -> None:
    job = platform.train(dataset, base, **RECIPE)
    watcher = Watcher(platform, job.name)
    watcher.start()
    for step in (3, 50, 100):
        watcher.wait_step(step)
        for process in eventually(lambda: trainers(platform), 30, "a trainer to kill"):
            os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: not trainers(platform), 30, "its end")
    over = platform.wait_job(job.name, 200)
    assert over.state == pb.TrainingJob.STATE_SUCCEEDED, over.failure
    watcher.check_complete()
    ended = [event.attempt for event in watcher.events if event.HasField("attempt") and not event.attempt.started]
    assert [attempt.HasField("exit_code") for attempt in ended] == [False, False, False, True], ended
    assert adapter_hash(platform, job.name) == calm


@pytest.mark.timeout(400)
def test_every_service_killed_once_during_a_job_changes_nothing(
    platform: Platform, dataset: str, base: str, calm: str
) -> None:
    job = platform.train(dataset, base, **RECIPE)
    watcher = Watcher(platform, job.name)
    watcher.start()
    for index, room in enumerate(ROOMS):
        watcher.wait_step(2 + 6 * index)
        platform.rooms[room].kill()
        platform.rooms[room].restart()
    platform.gateway.kill()
    platform.gateway.start()
    platform.wait_gateway()
    over = platform.wait_job(job.name, 200)
    assert over.state == pb.TrainingJob.STATE_SUCCEEDED, over.failure
    assert over.attempt_count == 1
    watcher.check_complete()
    assert watcher.breaks >= 1
    assert adapter_hash(platform, job.name) == calm


def test_a_cancelled_job_stops_and_keeps_what_it_made_safe(platform: Platform, dataset: str, base: str) -> None:
    job = platform.train(dataset, base, **(RECIPE | {"epochs": 50}))
    watcher = Watcher(platform, job.name)
    watcher.start()
    watcher.wait_step(4)
    platform.training.CancelTrainingJob(pb.CancelTrainingJobRequest(name=job.name, reason="enough seen"))
    assert platform.wait_job(job.name, 60).state == pb.TrainingJob.STATE_CANCELLED
    checkpoints = platform.training.ListCheckpoints(pb.ListCheckpointsRequest(parent=job.name)).checkpoints
    assert checkpoints
    assert not trainers(platform)


def test_paths_of_the_platform_stay_inside_its_home(platform: Platform) -> None:
    assert {path.name for path in Path(platform.folder / "home").iterdir()} <= {"db", "workloads", "cache", "spool"}
