"""A platform whose training service keeps a trainer ready: jobs begin in it, survive the service, and it does not."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from feinschliff.v1 import training_pb2 as pb
from tests.e2e.test_flywheel import chat_rows
from tests.support.platform import Platform
from tests.support.s3 import S3Server
from tests.support.waiting import eventually

ROOMS = ("ingestion", "registry", "training")


@pytest.fixture
def platform(s3_server: S3Server, tmp_path: Path, base: str) -> Iterator[Platform]:
    bucket = f"e2e-{uuid.uuid4().hex[:12]}"
    s3_server.store(bucket)
    warm = {"FEINSCHLIFF_TRAINING_WARM_WORKERS": "1", "FEINSCHLIFF_TRAINING_WARM_BASE": base}
    running = Platform(tmp_path, s3_server, bucket, warm)
    for room in ROOMS:
        running.rooms[room].start_and_wait()
    yield running
    running.stop()
    s3_server.drop_bucket(bucket)


def metric(platform: Platform, name: str) -> float:
    url = f"http://127.0.0.1:{platform.metrics_ports['training']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.rsplit(" ", 1)[1] for line in lines if line.startswith(f"feinschliff_training_{name} ")))


def wait_ready(platform: Platform, *known: psutil.Process) -> psutil.Process:
    """The process that stands ready, the only child of its watcher, and none of those known: they may work by now."""
    eventually(lambda: metric(platform, "warm_workers") == 1, 90, "a trainer that stands ready")
    service = psutil.Process(platform.rooms["training"].pid)

    def ready() -> psutil.Process | None:
        warm = [one for one in service.children(recursive=True) if "feinschliff.trainer.warm" in one.cmdline()]
        return next((one for one in warm if "--stand-ready" not in one.cmdline() and one not in known), None)

    found = eventually(ready, 90, "another trainer that stands ready")
    assert found is not None
    eventually(lambda: metric(platform, "warm_workers") == 1, 90, "it to be ready")
    return found


@pytest.mark.timeout(400)
def test_a_job_begins_in_it_and_outlives_the_service_that_kept_it(platform: Platform, base: str) -> None:
    version = platform.push("warm", chat_rows(24), train_fraction=1.0).name
    first = wait_ready(platform)
    job = platform.train(version, base, epochs=40, batch_size=2, learning_rate=1e-3)

    def done() -> float:
        return platform.training.GetTrainingJob(pb.GetTrainingJobRequest(name=job.name)).progress.done

    eventually(lambda: done() >= 3, 60, "its first steps")
    assert metric(platform, 'attempt_starts_total{start="warm"}') == 1
    assert metric(platform, 'attempt_starts_total{start="cold"}') == 0
    second = wait_ready(platform, first)
    assert first.is_running()
    platform.rooms["training"].kill()
    eventually(lambda: not second.is_running(), 30, "the end of the one that stood ready")
    assert first.is_running()
    platform.rooms["training"].restart()
    third = wait_ready(platform, first)

    over = platform.wait_job(job.name, 150)
    assert over.state == pb.TrainingJob.STATE_SUCCEEDED, over.failure
    assert over.attempt_count == 1
    eventually(lambda: not first.is_running(), 30, "the trainer's end")
    platform.rooms["training"].terminate()
    eventually(lambda: not third.is_running(), 30, "the end of the one that stood ready")
