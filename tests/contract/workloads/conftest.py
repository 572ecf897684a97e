"""Every kind of runner on a ground of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from feinschliff.workloads.kubernetes import KubernetesRunner
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.runner import Runner
from tests.support.cluster.cluster import Cluster
from tests.support.grounds import Ground, Machine, OnCluster


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "workloads")
    yield machine
    machine.clear()


@pytest.fixture
def on_cluster(tmp_path: Path) -> Iterator[OnCluster]:
    ground = OnCluster(Cluster(tmp_path / "cluster"))
    yield ground
    ground.close()


@pytest.fixture
def cluster(on_cluster: OnCluster) -> Cluster:
    return on_cluster.cluster


@pytest.fixture
def jobs(on_cluster: OnCluster) -> KubernetesRunner:
    """A runner on the cluster."""
    return on_cluster.open()


@pytest.fixture
def folder(machine: Machine) -> Path:
    return machine.folder


@pytest.fixture
def processes(machine: Machine) -> SubprocessRunner:
    """A runner on this machine."""
    return machine.open()


@pytest.fixture(params=["machine", "on_cluster"])
def ground(request: pytest.FixtureRequest) -> Ground:
    found: Ground = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def runner(ground: Ground) -> Runner:
    return ground.open()


@pytest.fixture
def on_a_cluster(ground: Ground) -> bool:
    """Where the two may differ, and how is said in the test."""
    return isinstance(ground, OnCluster)
