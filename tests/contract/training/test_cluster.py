"""Jobs whose attempts are Jobs of a cluster, whoever of the training service dies in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from feinschliff.training.life import FINAL, State
from feinschliff.training.lists import Lists
from feinschliff.workloads.profiles import Profile, Profiles
from tests.contract.training.conftest import Training
from tests.support.cluster.cluster import Cluster
from tests.support.grounds import OnCluster
from tests.support.waiting import eventually

JOBS = 20
CLUSTER = Profiles(default="cpu", profiles=(Profile(name="cpu", image="registry.example/trainer:1", slots=8),))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: the store's promises are tested on both, the processes need one."""
    return sqlite_url


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[OnCluster]:
    ground = OnCluster(Cluster(tmp_path / "cluster"))
    yield ground
    ground.close()


def attempts_started(training: Training, name: str) -> int:
    events = Lists(training.database).events(name, "", 500, "", "").items
    return sum(1 for event in events if event.detail.get("kind") == "attempt" and event.detail["started"])


def test_a_controller_that_is_replaced_among_20_jobs_loses_and_doubles_none(
    training: Training, ground: OnCluster
) -> None:
    training.use(CLUSTER)
    deeds = ["succeed", "die,succeed", "75,succeed", "65"]
    names = [training.jobs.create(training.order(deeds[number % 4])).name for number in range(JOBS)]

    for generation in range(200):
        runner = ground.open()
        # nobody is silent here: how long attempts take is the machine's affair, not that of this clock
        reconciler = training.reconciler(f"controller-{generation}", runner=runner, profiles=CLUSTER, stall_seconds=1e6)
        for _ in range(3):  # and then it is gone, with whatever it had begun
            reconciler.turn()
            training.clock.advance(1)
        runner.close()
        training.clock.advance(20)  # its leases end
        if all(training.jobs.get(name).state in FINAL for name in names):
            break

    ended = [training.jobs.get(name) for name in names]
    assert Counter(job.state for job in ended) == {State.SUCCEEDED: 15, State.FAILED: 5}
    assert sorted(training.registrar.calls) == sorted(job.name for job in ended if job.state is State.SUCCEEDED)
    assert [attempts_started(training, job.name) for job in ended] == [job.attempt for job in ended]
    assert {job.attempt for job in ended[::4]} == {1}
    assert {job.attempt for job in ended[1::4]} == {2}
    eventually(lambda: not ground.cluster.store.all("jobs"), 60, "no Job is left behind")


def test_a_full_namespace_makes_jobs_wait_and_nothing_fail(training: Training, ground: OnCluster) -> None:
    training.use(CLUSTER)
    ground.cluster.no_room = "0/1 nodes are available: 1 Insufficient cpu."
    job = training.jobs.create(training.order("succeed"))
    reconciler = training.reconciler(runner=ground.open(), profiles=CLUSTER)

    def waits() -> bool:
        reconciler.turn()
        events = Lists(training.database).events(job.name, "", 500, "", "").items
        return any("Insufficient cpu" in event.message for event in events)

    eventually(waits, 60, "the word that there is no room")
    ground.cluster.no_room = ""
    assert training.turn_until_over(job.name, reconciler).state is State.SUCCEEDED
    assert training.jobs.get(job.name).attempt == 1
