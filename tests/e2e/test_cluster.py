"""The platform with its attempts as Jobs of a cluster: the real trainer, killed and evicted, ends as it should."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest

from feinschliff.v1 import training_pb2 as pb
from tests.e2e.test_flywheel import chat_rows
from tests.e2e.test_kills import Watcher, adapter_hash
from tests.support.cluster.cluster import NAMESPACE, Cluster
from tests.support.platform import Platform
from tests.support.s3 import S3Server
from tests.support.waiting import eventually

RECIPE = {"epochs": 5, "batch_size": 4, "learning_rate": 1e-3}
STEPS = 65  # 52 training rows in batches of 4, 5 times
PROFILES = {
    "default": "cpu",
    "profiles": [{"name": "cpu", "image": "registry.example/trainer:1", "slots": 1, "env": {"OMP_NUM_THREADS": "1"}}],
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def platform(cluster: Cluster, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    bucket = f"e2e-{uuid.uuid4().hex[:12]}"
    s3_server.store(bucket)
    (folder / "profiles.json").write_text(json.dumps(PROFILES))
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig(cluster.url)))
    settings = {
        "KUBECONFIG": str(folder / "kubeconfig"),
        "FEINSCHLIFF_TRAINING_RUNNER": "kubernetes",
        "FEINSCHLIFF_TRAINING_NAMESPACE": NAMESPACE,
        "FEINSCHLIFF_TRAINING_PROFILES": str(folder / "profiles.json"),
        "FEINSCHLIFF_TRAINING_LOG_SECONDS": "1",
    }
    running = Platform(folder, s3_server, bucket, settings)
    running.start()
    yield running
    running.stop()
    s3_server.drop_bucket(bucket)


def kubeconfig(url: str) -> dict[str, object]:
    context = {"name": "here", "context": {"cluster": "here", "user": "me"}}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [context],
        "current-context": "here",
    }


def running_pod(cluster: Cluster) -> str:
    """The uid of the one trainer that runs."""
    [uid] = eventually(lambda: list(cluster.kubelet.running), 60, "a running pod")  # type: ignore[misc]
    return str(uid)


def log_of(platform: Platform, job: str, attempt: int) -> bytes:
    return platform.s3.store(platform.bucket).get_bytes(f"{job}/logs/attempt-{attempt}.log")


@pytest.mark.timeout(300)
def test_a_job_on_a_cluster_survives_its_trainer_and_its_controller(
    platform: Platform, cluster: Cluster, base: str
) -> None:
    dataset = platform.push("cluster", chat_rows(52), train_fraction=1.0).name
    calm = platform.train(dataset, base, **RECIPE)
    assert platform.wait_job(calm.name).state == pb.TrainingJob.STATE_SUCCEEDED

    job = platform.train(dataset, base, **RECIPE)
    watcher = Watcher(platform, job.name, STEPS)
    watcher.start()
    watcher.wait_step(5)
    cluster.kubelet.kill(running_pod(cluster))
    watcher.wait_step(25)
    platform.rooms["training"].kill()
    platform.rooms["training"].start()
    over = platform.wait_job(job.name)

    assert over.state == pb.TrainingJob.STATE_SUCCEEDED
    assert over.attempt_count == 2  # the new controller took over what ran
    watcher.check_complete()
    assert adapter_hash(platform, job.name) == adapter_hash(platform, calm.name)
    assert b"over" in log_of(platform, job.name, 2)
    eventually(lambda: not cluster.store.all("jobs") and not cluster.store.all("secrets"), 60, "nothing left behind")
